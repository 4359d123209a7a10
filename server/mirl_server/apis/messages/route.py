"""`POST /v1/messages`: through the gate where the newest message is a user's with an image, else plain.

The backend counts tokens (`/v1/messages/count_tokens`), of messages in every form that is answered.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from mirl_server.apis.messages.request import FIELDS, ROLES, MessagesApi
from mirl_server.apis.openapi import BACKEND_ERRORS, AnthropicErrorBody, MessagesAnswer, documented
from mirl_server.apis.streams import MESSAGES_STREAM
from mirl_server.apis.translation.schema import request_body
from mirl_server.handling.dispatch import answer, answer_count
from mirl_server.handling.reading.json_schema import (
    EXAMPLE_OPTIONS,
    EXAMPLE_PNG,
    content_schema,
    list_schema,
    message_schema,
    part_schema,
)
from mirl_server.handling.service import service_of

router = APIRouter()

_TEXT = part_schema("text", text={"type": "string"})
_SOURCE = {
    "anyOf": [
        part_schema("base64", media_type={"type": "string"}, data={"type": "string"}),
        part_schema("url", url={"type": "string"}),
    ]
}
_EXAMPLE = {
    "model": "mirl-tiny",
    "max_tokens": 200,
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": EXAMPLE_PNG},
                },
                {"type": "text", "text": "What colour is this?"},
            ],
        }
    ],
    "mirl": EXAMPLE_OPTIONS,
}


@router.post(
    "/v1/messages",
    response_class=Response,
    responses=documented(MessagesAnswer, BACKEND_ERRORS, AnthropicErrorBody, stream=MESSAGES_STREAM),
    openapi_extra=request_body(
        FIELDS,
        required=("model", "messages", "max_tokens"),
        own={
            "messages": list_schema(
                message_schema(ROLES, content_schema(_TEXT, part_schema("image", source=_SOURCE)))
            ),
            "system": content_schema(_TEXT),
        },
        example=_EXAMPLE,
    ),
)
async def messages(request: Request) -> Response:
    """Answer a request of the Anthropic API."""
    return await answer(MessagesApi, request)


# The backend's own route documents it.
@router.post("/v1/messages/count_tokens", include_in_schema=False)
async def count_tokens(request: Request) -> Response:
    """Count the tokens of a prompt of the Anthropic API."""
    handler = service_of(request).handlers.get("count_tokens")
    if handler is None:
        raise HTTPException(404)
    return await answer_count(MessagesApi, request, handler)
