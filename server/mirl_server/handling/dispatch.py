"""The way of every request: through the gate where its newest message brings an image, else to the backend.

`NAME:direct`, requests without a new image (follow-ups, tool turns, text), adapters and unknown names go to
the backend's own handler.
"""

from __future__ import annotations

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from mirl_core.errors import MIRLError
from mirl_server.handling.api import Api
from mirl_server.handling.gated import answer_gated
from mirl_server.handling.plain import answer_plain, count_tokens
from mirl_server.handling.service import BackendHandler, service_of
from mirl_server.handling.streaming import ClientGone
from mirl_server.http.bodies import read_body
from mirl_server.http.errors import error_response
from mirl_server.http.scope import route_path
from mirl_server.observability.request_observer import count_error


async def answer(api_class: type[Api], request: Request) -> Response:
    """Answer a request of one API: through the gate, or by the backend's own handler."""
    service = service_of(request)
    try:
        api = api_class(await read_body(request))
        model = api.body.get("model")
        if (not model or model in service.names) and api.brings_image():
            return await answer_gated(service, request, api)
        return await answer_plain(service, request, api)
    except MIRLError as error:
        count_error(service, request, error)
        return error_response(error, route_path(request.scope))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it


async def answer_count(api_class: type[Api], request: Request, handler: BackendHandler) -> Response:
    """Answer a request that counts the tokens of a prompt of one API, by the backend's handler."""
    service = service_of(request)
    try:
        return await count_tokens(service, request, api_class(await read_body(request)), handler)
    except MIRLError as error:
        count_error(service, request, error)
        return error_response(error, route_path(request.scope))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
