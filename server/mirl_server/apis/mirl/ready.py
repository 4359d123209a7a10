"""`GET /ready`: whether to send requests here. The backend's `/health` tells whether to restart."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_core.errors import MIRLError
from mirl_server.apis.openapi import OPEN_GET_ERRORS, documented
from mirl_server.handling.service import service_of
from mirl_server.http.errors import draining_error, error_response

router = APIRouter()


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    response_class=Response,
    responses=documented(None, {**OPEN_GET_ERRORS, 503: "Draining, or the engine is gone"}),
)
async def ready(request: Request) -> Response:
    """200 while the engine can serve, 503 otherwise."""
    service = service_of(request)
    try:
        if service.draining():
            raise draining_error()
        await service.engine_pipeline().engine.health()
    except MIRLError as error:
        return error_response(error)
    return Response()
