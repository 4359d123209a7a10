"""`POST /v1/responses`: through the gate where the newest input item is a user's with an image, else plain.

The backend serves the rest of the Responses API (retrieving, cancelling).
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.openapi import BACKEND_ERRORS, ResponsesAnswer, documented
from mirl_server.apis.responses.items import ROLES
from mirl_server.apis.responses.request import FIELDS, ResponsesApi
from mirl_server.apis.streams import RESPONSES_STREAM
from mirl_server.apis.translation.schema import request_body
from mirl_server.handling.dispatch import answer
from mirl_server.handling.reading.json_schema import (
    EXAMPLE_OPTIONS,
    EXAMPLE_PNG,
    OTHER_PART,
    content_schema,
    list_schema,
    message_schema,
    part_schema,
)

router = APIRouter()

_CONTENT = content_schema(
    part_schema("input_text", text={"type": "string"}),
    part_schema("input_image", image_url={"type": "string"}),
)
_ITEMS = list_schema({"anyOf": [message_schema(ROLES, _CONTENT), OTHER_PART]})
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
    "mirl": EXAMPLE_OPTIONS,
}


@router.post(
    "/v1/responses",
    response_class=Response,
    responses=documented(ResponsesAnswer, BACKEND_ERRORS, stream=RESPONSES_STREAM),
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
