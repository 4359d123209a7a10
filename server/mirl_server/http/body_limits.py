"""The layer that bounds request bodies in bytes and seconds while they are read.

Pure ASGI. This layer sends a refusal itself and reports a disconnect to the app, so that the refusal does not
depend on the handler that reads the body (MIRL's, the backend's or a framework's).
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
"""The scope's key for whether the response is an event stream, which may contain comments."""
LINGER = 2.0
"""Seconds to read the rest of a refused body."""
SMALL_BODY = 65536
"""Bytes."""


class BodyLimits:
    """ASGI middleware that bounds a request's body in bytes and seconds."""

    def __init__(self, app: ASGIApp, settings: HTTPSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = _content_length(Headers(scope=scope))
        if length is not None and length > self.settings.max_body_bytes:
            await refuse(_too_large(self.settings), scope, receive, send)
            return
        channels = _BoundedChannels(self.settings, scope, receive, send)
        try:
            await self.app(scope, channels.receive, channels.send)
        except Exception:
            # After a refusal the app sees a disconnect and may raise any error.
            if not channels.refused:
                raise


class _BoundedChannels:
    """The receive and send channels of one request, with the limits applied."""

    def __init__(self, settings: HTTPSettings, scope: Scope, receive: Receive, send: Send) -> None:
        self.refused = False
        self._settings = settings
        self._scope, self._receive, self._send = scope, receive, send
        self._bytes = 0
        self._complete = False
        self._started = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        """Return the next part of the body; once the request is refused, a disconnect."""
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
            error = BodyTimeoutError(f"the request's body did not arrive within {seconds:g} s; send it again")
            return await self._refuse(error, linger=0)
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._settings.max_body_bytes:
                return await self._refuse(_too_large(self._settings), linger=LINGER)
            self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send the app's message, unless the request is refused."""
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
    """Send an error response to a request whose body may be unread.

    If a large body may still arrive, or with `close`, the response ends the connection. Data in transit is
    then read for up to `linger` seconds: otherwise the client would see a connection reset and no response.
    """
    response = error_response(error)
    raw = [*response.raw_headers, *(headers or [])]
    closing = close or _may_have_large_body(Headers(scope=scope))
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


def _content_length(headers: Headers) -> int | None:
    """Return the declared length in bytes, capped at 20 digits; None where it is no number; 0 without it."""
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isdecimal() else None


def _may_have_large_body(headers: Headers) -> bool:
    length = _content_length(headers)
    return "transfer-encoding" in headers or length is None or length > SMALL_BODY


def _too_large(settings: HTTPSettings) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request's body is over {settings.max_body_bytes} bytes; send fewer or smaller images"
    )
