"""POST /v1/messages: through the gate where the newest message is a user's with an image, else handed on.

Counting tokens stays the backend's.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.messages import FIELDS, MessagesApi
from mirl_server.apis.schema import request_body
from mirl_server.routes.chat import ERRORS, answer

router = APIRouter()


@router.post(
    "/v1/messages",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}, **ERRORS},
    openapi_extra=request_body(
        FIELDS,
        required=("model", "messages", "max_tokens"),
        own={
            "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "system": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
        },
    ),
)
async def messages(request: Request) -> Response:
    """Answer a request of the Anthropic API."""
    return await answer(MessagesApi, request)
