"""`POST /v1/messages`: through the gate where the newest message is a user's with an image, else plain.

The backend counts tokens (`/v1/messages/count_tokens`).
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.messages.request import FIELDS, ROLES, MessagesApi
from mirl_server.apis.openapi import BACKEND_ERRORS, AnthropicErrorBody, MessagesAnswer, documented
from mirl_server.apis.translation.schema import request_body
from mirl_server.handling.dispatch import answer
from mirl_server.handling.reading.json_schema import (
    EXAMPLE_OPTIONS,
    EXAMPLE_PNG,
    content_schema,
    list_schema,
    message_schema,
    part_schema,
)

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
    responses=documented(MessagesAnswer, BACKEND_ERRORS, AnthropicErrorBody, stream=True),
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
