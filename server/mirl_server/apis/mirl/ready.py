"""`GET /ready`: whether to send requests here. The backend's `/health` tells whether to restart."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mirl_core.errors import EngineDeadError, MIRLError
from mirl_server.apis.openapi import OPEN_GET_ERRORS, documented
from mirl_server.handling.service import service_of
from mirl_server.http.errors import draining_error, error_body, error_response

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
    engines = service.engines() if service.engines is not None else None
    try:
        if service.draining():
            raise draining_error()
        if engines is None:
            await service.engine_pipeline().engine.health()
        elif not any(engine["ready"] for engine in engines):
            # The state is that of the last check: this path needs no key, and may cost the engines nothing.
            raise EngineDeadError(service.no_engine())
    except MIRLError as error:
        response = error_response(error)
        if engines is None:
            return response
        headers = {name: value for name, value in response.headers.items() if name == "retry-after"}
        return JSONResponse({**error_body(error), "engines": engines}, response.status_code, headers)
    return Response() if engines is None else JSONResponse({"engines": engines})
