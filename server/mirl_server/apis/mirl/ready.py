"""GET /ready: whether to send requests here. /health, which says whether to restart, is the backend's."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mirl_core.errors import DrainingError, MIRLError
from mirl_server.apis.openapi import OPEN, documented
from mirl_server.apis.protocol import error_response
from mirl_server.handling.service import service_of

router = APIRouter()


@router.get(
    "/ready",
    response_class=Response,
    responses=documented(None, {**OPEN, 503: "Draining, or the engine is gone"}),
)
async def ready(request: Request) -> Response:
    """200 while the engine can serve, 503 otherwise."""
    service = service_of(request)
    try:
        if service.draining():
            raise DrainingError("the server is shutting down", 5)
        await service.engine_pipeline().engine.health()
    except MIRLError as error:
        return error_response(error)
    return Response()
