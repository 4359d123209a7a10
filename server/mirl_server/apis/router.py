"""The router of all routes, for the app of any backend."""

from __future__ import annotations

from fastapi import APIRouter

from mirl_server.apis.chat import route as chat
from mirl_server.apis.messages import route as messages
from mirl_server.apis.mirl import describe, models, ready, score
from mirl_server.apis.responses import route as responses


def make_router() -> APIRouter:
    """Return a router with every route."""
    router = APIRouter()
    for module in (chat, responses, messages, models, ready, score, describe):
        router.include_router(module.router)
    return router
