"""The backend's other endpoints that generate: admitted as plain requests, and salted, on their way to it.

Pure ASGI around the backend's own routes, so that nothing of them is rebuilt: the body is read and counted
here and told to them again, with the tenant's cache salt in it; the turn is held until the answer is out.
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
from mirl_server.handling.service import service_of
from mirl_server.handling.streaming import ClientGone
from mirl_server.http.bodies import is_json, read_json
from mirl_server.observability.request_observer import refuse


class PassThroughAdmission:
    """Admits what is posted to some paths.

    Args:
        paths: of the endpoints that generate and aren't MIRL's. JSON gets the salt; a form (audio) counts for
            one sequence, and has no field for it.
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
                return  # nobody reads an answer
            await self.app(scope, _again(content, receive), send)

    def _generates(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return path.removeprefix(scope.get("root_path", "")) in self._paths

    async def _admitted(self, request: Request, closing: AsyncExitStack) -> bytes:
        """The body for the backend, once it is the request's turn."""
        service, content = service_of(request), await request.body()
        caller, work = caller_of(request), (1, service.max_model_len)
        if is_json(request):
            body = read_json(content)
            check_plain(body, service.settings.limits)
            work = plain_cost(body, service.max_model_len)
            if add_salt(body, caller.tenant):
                content = json.dumps(body, separators=(",", ":")).encode()
        service.admission.check_queue(caller.name, "plain")
        await take_turn(service, request, closing, *work)
        return content


def _again(content: bytes, receive: Receive) -> Receive:
    """A channel that tells a body that was read already, and then what `receive` tells."""
    told = False

    async def tell() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": content, "more_body": False}

    return tell
