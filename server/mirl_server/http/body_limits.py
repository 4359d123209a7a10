"""How much and how slowly a client may send: bodies are counted and timed while they are read.

Pure ASGI. A refusal goes to the client from here, and the app hears that the client has left: whichever
handler was reading (ours, the backend's, a framework's) has no say in the answer.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_core.errors import BodyTimeoutError, MIRLError, RequestTooLargeError
from mirl_server.http.errors import error_response
from mirl_server.settings.limits import HTTPSettings

EVENT_STREAM = "mirl.event_stream"
"""In the scope of a request: whether its answer is an event stream, so that a comment may stand in it."""
LINGER = 2.0
SMALL_BODY = 65536


class BodyLimits:
    """Bounds a request's body in bytes and seconds."""

    def __init__(self, app: ASGIApp, settings: HTTPSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.settings.max_body_bytes:
            await refuse(_too_large(self.settings), scope, receive, send)
            return
        reader = _Reader(self.settings, scope, receive, send)
        try:
            await self.app(scope, reader.receive, reader.send)
        except Exception:
            # It was told that the client has left, whatever it made of that.
            if not reader.refused:
                raise


class _Reader:
    """One request's two channels."""

    def __init__(self, settings: HTTPSettings, scope: Scope, receive: Receive, send: Send) -> None:
        self.refused = False
        self._settings = settings
        self._scope, self._receive, self._send = scope, receive, send
        self._bytes = 0
        self._complete = False
        self._started = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        """The next part of the body; a disconnect once the request is refused."""
        if self.refused:
            return {"type": "http.disconnect"}
        if self._complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._settings.body_seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            seconds = self._settings.body_seconds
            says = f"the request's body did not arrive within {seconds:g} s; send it again"
            return await self._refuse(BodyTimeoutError(says), linger=0)
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._settings.max_body_bytes:
                return await self._refuse(_too_large(self._settings), linger=LINGER)
            self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """The app's answer, unless the client was answered already."""
        if not self.refused:
            if message["type"] == "http.response.start":
                self._started = True
                kind = Headers(raw=message.get("headers", [])).get("content-type", "")
                self._scope[EVENT_STREAM] = kind.startswith("text/event-stream")
            await self._send(message)

    async def _refuse(self, error: MIRLError, linger: float) -> Message:
        self.refused = True
        if not self._started:
            await refuse(error, self._scope, self._receive, self._send, close=True, linger=linger)
        return {"type": "http.disconnect"}


async def refuse(
    error: MIRLError,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    close: bool = False,
    linger: float = LINGER,
) -> None:
    """Answer a request whose body may not have been read.

    Where much of a body may still come, or with `close`, the connection ends with the answer. What is on its
    way is read for up to `linger` seconds: the client would else see its connection reset, and no answer.
    """
    response = error_response(error)
    raw = [*response.raw_headers, *(headers or [])]
    closing = close or _brings_much(scope)
    if closing:
        raw.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status_code, "headers": raw})
    await send({"type": "http.response.body", "body": response.body, "more_body": closing})
    if closing:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(linger):
                while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _brings_much(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "0")
    small = announced.isdecimal() and int(announced[:20]) <= SMALL_BODY
    return "transfer-encoding" in headers or not small


def _too_large(settings: HTTPSettings) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request's body is over {settings.max_body_bytes} bytes; send fewer or smaller images"
    )
