"""The HTTP routes, as one router that vLLM's app and the gateway's mount alike."""

from __future__ import annotations

from fastapi import APIRouter

from mirl_server.routes import chat, describe, messages, models, ready, responses, score


def make_router() -> APIRouter:
    """A router with every route."""
    router = APIRouter()
    for module in (chat, responses, messages, models, ready, score, describe):
        router.include_router(module.router)
    return router
