"""POST /v1/responses: through the gate where the newest input item is a user's with an image, else handed on.

What else the Responses API has (retrieving, cancelling) stays the backend's.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.chat.route import answer
from mirl_server.apis.openapi import (
    EXAMPLE_KNOBS,
    EXAMPLE_PNG,
    HANDED_ON,
    OTHER,
    ResponsesAnswer,
    a_part,
    a_turn,
    documented,
    some,
    text_or_parts,
)
from mirl_server.apis.responses.request import FIELDS, ROLES, ResponsesApi
from mirl_server.apis.translation.schema import request_body

router = APIRouter()

_CONTENT = text_or_parts(
    a_part("input_text", text={"type": "string"}), a_part("input_image", image_url={"type": "string"})
)
_ITEMS = some({"anyOf": [a_turn(ROLES, _CONTENT), OTHER]})
_EXAMPLE = {
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": f"data:image/png;base64,{EXAMPLE_PNG}"},
                {"type": "input_text", "text": "What colour is this?"},
            ],
        }
    ],
    "max_output_tokens": 200,
    "mirl": EXAMPLE_KNOBS,
}


@router.post(
    "/v1/responses",
    response_class=Response,
    responses=documented(ResponsesAnswer, HANDED_ON, stream=True),
    openapi_extra=request_body(
        FIELDS,
        required=("input",),
        own={
            "input": {"anyOf": [{"type": "string"}, _ITEMS]},
            "instructions": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        example=_EXAMPLE,
    ),
)
async def responses(request: Request) -> Response:
    """Answer a request of the Responses API."""
    return await answer(ResponsesApi, request)
