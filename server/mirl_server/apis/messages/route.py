"""POST /v1/messages: through the gate where the newest message is a user's with an image, else handed on.

Counting tokens stays the backend's.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.chat.route import answer
from mirl_server.apis.messages.request import FIELDS, ROLES, MessagesApi
from mirl_server.apis.openapi import (
    EXAMPLE_KNOBS,
    EXAMPLE_PNG,
    HANDED_ON,
    AnthropicErrorBody,
    MessagesAnswer,
    a_part,
    a_turn,
    documented,
    some,
    text_or_parts,
)
from mirl_server.apis.translation.schema import request_body

router = APIRouter()

_TEXT = a_part("text", text={"type": "string"})
_SOURCE = {
    "anyOf": [
        a_part("base64", media_type={"type": "string"}, data={"type": "string"}),
        a_part("url", url={"type": "string"}),
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
    "mirl": EXAMPLE_KNOBS,
}


@router.post(
    "/v1/messages",
    response_class=Response,
    responses=documented(MessagesAnswer, HANDED_ON, AnthropicErrorBody, stream=True),
    openapi_extra=request_body(
        FIELDS,
        required=("model", "messages", "max_tokens"),
        own={
            "messages": some(a_turn(ROLES, text_or_parts(_TEXT, a_part("image", source=_SOURCE)))),
            "system": text_or_parts(_TEXT),
        },
        example=_EXAMPLE,
    ),
)
async def messages(request: Request) -> Response:
    """Answer a request of the Anthropic API."""
    return await answer(MessagesApi, request)
