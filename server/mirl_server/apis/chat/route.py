"""`POST /v1/chat/completions`: gated where the newest message is a user's with an image, else plain."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.chat.request import ChatApi
from mirl_server.apis.openapi import BACKEND_ERRORS, ChatAnswer, documented, json_body
from mirl_server.apis.streams import CHAT_STREAM
from mirl_server.handling.dispatch import answer
from mirl_server.handling.reading.openapi import request_example, request_schema

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses=documented(ChatAnswer, BACKEND_ERRORS, stream=CHAT_STREAM),
    openapi_extra=json_body(request_schema(), request_example()),
)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    return await answer(ChatApi, request)
