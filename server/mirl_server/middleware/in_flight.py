"""The layer that counts requests in flight, and ends them with an error when the server can't complete them.

Pure ASGI around every route, the backend's own included, within `ErrorShapes`. A request that is cut at
shutdown, or whose engine dies, gets a 503 if no response has started, and an error event in a started stream.
"""

from __future__ import annotations

import asyncio
import logging

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_core.errors import MIRLError
from mirl_server.access.authentication import READING
from mirl_server.handling.lifetime import Lifetime
from mirl_server.handling.service import service_of
from mirl_server.handling.streaming import error_event
from mirl_server.http.body_limits import refuse
from mirl_server.http.errors import error_response
from mirl_server.http.scope import is_event_stream, route_path
from mirl_server.middleware.request_log import CutShortError
from mirl_server.observability.logs import trail
from mirl_server.observability.request_observer import count_error

logger = logging.getLogger(__name__)

TRY_AGAIN_LATER = 1013
"""The close code of a web socket that is refused (RFC 6455 registry)."""


class InFlight:
    """ASGI middleware: accepts new work while the server serves. GET requests (health checks) always pass.

    Args:
        life: the lifetime of this server's process.
    """

    def __init__(self, app: ASGIApp, life: Lifetime) -> None:
        self.app = app
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        error = self._life.refusal()
        if error is None:
            with self._life.work():
                await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": error.message})
        elif scope["method"] in READING:
            await self.app(scope, receive, send)
        else:
            _count(scope, error)
            await refuse(error, scope, receive, send, close=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _Response(scope, send, self._life)
        try:
            await self.app(scope, receive, response.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._life.cutting or task is None:
                raise
            task.uncancel()
        except Exception as error:
            # Without the engine vLLM's handlers raise all kinds of exceptions.
            if not self._life.engine_dead():
                raise
            logger.warning("a request lost its engine: %s", trail(error))
        else:
            if not response.withheld and not self._life.cutting:
                return
        if (refusal := self._life.refusal()) is not None and scope["type"] == "http":
            await response.end(refusal)


class _Response:
    """One request's response, which `end` replaces or completes with an error."""

    def __init__(self, scope: Scope, send: Send, life: Lifetime) -> None:
        self.withheld = False
        """Whether the app's response is an error caused by the dead engine or the cut, and is held back."""
        self._scope, self._send, self._life = scope, send, life
        self._started = self._complete = self._ended = self._stream = False

    async def send(self, message: Message) -> None:
        """Send the app's message, unless it is withheld or the response has ended."""
        if message["type"] == "http.response.start":
            status = message["status"]
            self.withheld = (status == 500 and self._life.engine_dead()) or (
                status >= 400 and self._life.cutting
            )
            self._stream = is_event_stream(message)
            self._started = not self.withheld
        elif message["type"] == "http.response.body":
            self._complete = not self.withheld and not message.get("more_body", False)
        if not self.withheld and not self._ended:
            await self._send(message)

    async def end(self, error: MIRLError) -> None:
        """End the response with an error in the form of the request's API.

        Raises:
            CutShortError: the response has started and is no event stream: only closing the connection is
            left.
        """
        self._ended = True
        if self._complete:
            return
        _count(self._scope, error)
        if not self._started:
            response = error_response(error)
            headers = [*response.raw_headers, (b"connection", b"close")]
            await self._send(
                {"type": "http.response.start", "status": response.status_code, "headers": headers}
            )
            await self._send({"type": "http.response.body", "body": response.body})
        elif self._stream:
            await self._send(
                {"type": "http.response.body", "body": error_event(route_path(self._scope), error).encode()}
            )
        else:
            raise CutShortError


def _count(scope: Scope, error: MIRLError) -> None:
    request = Request(scope)
    count_error(service_of(request), request, error)
