"""Pass-through admission: the layer that admits requests of the backend's other generating endpoints.

Pure ASGI around the backend's own routes, which stay unchanged: this layer reads the body, computes its cost
as a plain request, waits for admission, adds the tenant's cache salt and replays the body to the route. The
request holds its admission until the response is complete.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import AsyncExitStack

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_core.errors import MIRLError
from mirl_server.access.authentication import caller_of
from mirl_server.handling.context import add_salt
from mirl_server.handling.cost import plain_cost
from mirl_server.handling.plain import check_plain, take_turn
from mirl_server.handling.reading.body_schemas import hold_schemas
from mirl_server.handling.service import service_of
from mirl_server.handling.streaming import ClientGone
from mirl_server.http.bodies import is_json, read_json
from mirl_server.http.scope import route_path
from mirl_server.observability.request_observer import refuse


class PassThroughAdmission:
    """ASGI middleware that admits POST requests to the given paths.

    Args:
        paths: the backend's generating endpoints. A JSON body gets the cache salt; a form (audio) costs one
            sequence and has no field for the salt.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self.app = app
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not self._generates(scope):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        async with AsyncExitStack() as closing:
            try:
                content = await self._admitted(request, closing)
            except MIRLError as error:
                await refuse(service_of(request), request, error)(scope, receive, send)
                return
            except (ClientGone, ClientDisconnect):
                return  # no client is left
            await self.app(scope, _replay(content, receive), send)

    def _generates(self, scope: Scope) -> bool:
        return route_path(scope) in self._paths

    async def _admitted(self, request: Request, closing: AsyncExitStack) -> bytes:
        """Return the body for the backend, once the request is admitted."""
        service, content = service_of(request), await request.body()
        caller, work = caller_of(request), (1, service.max_model_len)
        if is_json(request):
            body = read_json(content)
            check_plain(body, service.settings.limits)
            work = plain_cost(body, service.max_model_len)
            salted = add_salt(body, caller.tenant)
            if await hold_schemas(body, service.form_checker()) or salted:
                content = json.dumps(body, separators=(",", ":")).encode()
        service.admission.check_queue(caller.name, "plain")
        await take_turn(service, request, closing, *work)
        return content


def _replay(content: bytes, receive: Receive) -> Receive:
    """Return a channel that first yields `content` as the whole body, then the messages of `receive`."""
    replayed = False

    async def channel() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": content, "more_body": False}

    return channel
