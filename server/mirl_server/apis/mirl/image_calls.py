"""What /v1/mirl/score and /v1/mirl/describe share: calls about a conversation's images, answered at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from mirl_core.errors import MIRLError, ModelNotFoundError, RequestError
from mirl_server.apis.protocol import Json
from mirl_server.handling.requests import ChatRequest, brings_image, read_body, read_request
from mirl_server.handling.service import Service, service_of
from mirl_server.handling.streaming import ClientGone
from mirl_server.observability.request_observer import RequestObserver, refuse

Work = Callable[[Service, Request, dict[str, Any], RequestObserver], Awaitable[Json]]


async def answered(operation: str, request: Request, work: Work) -> Response:
    """What `work` makes of the request's body, or its error; watched from arrival to end."""
    service = service_of(request)
    watch = RequestObserver(service, request, operation, gated=False)
    try:
        return JSONResponse(await work(service, request, await read_body(request), watch))
    except MIRLError as error:
        watch.failed(error)
        return refuse(service, request, error)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    finally:
        watch.close()


def read_asked(service: Service, body: dict[str, Any], taken: Collection[str]) -> ChatRequest:
    """The body as a chat request of a gated model with an image.

    Args:
        taken: the fields that it may have.

    Raises:
        RequestError: another field is there, one is wrong, or the newest message brings no image.
        ModelNotFoundError: the model is not gated here.
    """
    for name, value in body.items():
        if name not in taken and value is not None:
            raise RequestError(f"unknown field '{name[:64]}'; leave it out", param=name[:64])
    asked = read_request(body)
    if asked.model and asked.model not in service.names:
        raise ModelNotFoundError(f"the model '{asked.model[:64]}' is not served here", param="model")
    if not brings_image(asked.messages):
        raise RequestError("the newest message must be the user's and bring an image", param="messages")
    return asked
