"""The common part of `/v1/mirl/score` and `/v1/mirl/describe`: calls about a conversation's images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from mirl_core.errors import MIRLError, ModelNotFoundError, RequestError
from mirl_server.handling.reading.conversation import brings_image
from mirl_server.handling.reading.fields import read_request, unknown_field
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import Service, service_of
from mirl_server.handling.streaming import ClientGone
from mirl_server.http.bodies import read_body
from mirl_server.http.errors import Json
from mirl_server.observability.request_observer import RequestObserver, refuse

ImageCall = Callable[[Service, Request, dict[str, Any], RequestObserver], Awaitable[Json]]
"""Takes the service, the HTTP request, its body and its observer; returns the response's body."""


async def answer_call(operation: str, request: Request, call: ImageCall) -> Response:
    """Answer a request with the result or the error of `call`; it is observed from arrival to end."""
    service = service_of(request)
    observer = RequestObserver(service, request, operation, gated=False)
    try:
        return JSONResponse(await call(service, request, await read_body(request), observer))
    except MIRLError as error:
        observer.failed(error)
        return refuse(service, request, error)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    finally:
        observer.close()


def read_image_request(service: Service, body: dict[str, Any], allowed: Collection[str]) -> ChatRequest:
    """Return the body as a chat request of a gated model, with an image.

    Args:
        allowed: the fields that the body may have.

    Raises:
        RequestError: another field is set, a field is wrong, or the newest message brings no image.
        ModelNotFoundError: the model is not gated here.
        EngineDeadError: no engine is there yet.
    """
    for name, value in body.items():
        if name not in allowed and value is not None:
            raise unknown_field(name)
    request = read_request(body)
    if not service.names:
        service.engine_pipeline()  # nobody knows yet which models are served
    if request.model and request.model not in service.names:
        raise ModelNotFoundError(f"the model '{request.model[:64]}' is not served here", param="model")
    if not brings_image(request.messages):
        raise RequestError("the newest message must be the user's and bring an image", param="messages")
    return request
