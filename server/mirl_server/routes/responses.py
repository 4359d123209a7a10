"""POST /v1/responses: through the gate where the newest input item is a user's with an image, else handed on.

What else the Responses API has (retrieving, cancelling) stays the backend's.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_server.apis.responses import FIELDS, ResponsesApi
from mirl_server.apis.schema import request_body
from mirl_server.routes.chat import ERRORS, answer

router = APIRouter()


@router.post(
    "/v1/responses",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}, **ERRORS},
    openapi_extra=request_body(
        FIELDS,
        required=("input",),
        own={
            "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
            "instructions": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    ),
)
async def responses(request: Request) -> Response:
    """Answer a request of the Responses API."""
    return await answer(ResponsesApi, request)
