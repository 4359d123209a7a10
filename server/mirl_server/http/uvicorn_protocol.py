"""uvicorn's HTTP protocol with limits on headers and on slow clients, for connections from anywhere.

uvicorn's httptools protocol bounds neither the size of headers nor the time they take, nor the time that a
client may leave its response unread; vLLM's `--h11-max-…` flags reach only the slower h11 parser, which vLLM
does not choose. This protocol applies them. Its refusals have the error object of the request's API.

A client that half-closes its connection after its request has either left or waits for its response. TCP
shows the difference only after a write: a client that has left answers with a reset. uvicorn treats all
half-closed connections as gone; this protocol probes them with an interim response (RFC 9110, 15.2) or a
comment in the event stream.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mirl_core.errors import BodyTimeoutError, MIRLError, RequestError, RequestTooLargeError
from mirl_server.http.body_limits import EVENT_STREAM
from mirl_server.http.errors import error_object
from mirl_server.settings.limits import HTTPSettings

HEADERS_TOO_LARGE = 431
MAX_HEADERS = 256
MAX_HEADER_BYTES = 65536
"""Defaults of uvicorn's settings for `--h11-max-header-count` and `--h11-max-incomplete-event-size`."""

RESPONSE_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
STREAM_PROBE = b"2\r\n:\n\r\n"
PROBE_WAITS = (0.005, 0.015, 0.03, 0.05, 0.1, 0.3, 0.5)
"""Seconds between checks for a reset, until the next probe; short waits first, for near clients."""


def http_protocol(limits: HTTPSettings) -> type[asyncio.Protocol]:
    """Return a protocol class with the operator's limits, for uvicorn's `http` setting."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """One connection, with limits. `http_protocol` sets `limits`."""

    limits = HTTPSettings()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""  # uvicorn sets it from the first request on
        self._reading_headers = False
        self._header_bytes = 0
        self._unparsed_bytes = 0
        self._callbacks = 0
        self._refusal: tuple[int, MIRLError] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._probe_task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_writing_timer()
        if self._probe_task is not None:
            self._probe_task.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether the half-closed connection stays open for the response."""
        # A TLS connection ends when the client closes its side. HTTP/1.0 has no interim responses.
        if not self._busy() or self.cycle.more_body or self.scheme == "https":
            return False
        if self.cycle.scope["http_version"] != "1.1":
            return False
        self.cycle.keep_alive = False
        if self._probe_task is None:
            self._probe_task = self.loop.create_task(self._probe_while_busy())
        return True

    async def _probe_while_busy(self) -> None:
        """Probe a half-closed connection until its response is complete; abort it on a reset."""
        connection: socket.socket = self.transport.get_extra_info("socket")
        while True:
            # A probe may not be written between the parts of another response, or into a full buffer.
            if not self.pipeline and not self.flow.write_paused:
                if not self.cycle.response_started:
                    self.transport.write(RESPONSE_PROBE)
                elif self.cycle.scope.get(EVENT_STREAM):
                    self.transport.write(STREAM_PROBE)
            for seconds in PROBE_WAITS:
                await asyncio.sleep(seconds)
                if not self._busy() or self.transport.is_closing():
                    return
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self.transport.abort()
                    return

    def data_received(self, data: bytes) -> None:
        callbacks = self._callbacks
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a web socket now
            return
        # The parser buffers a header, trailer or chunk extension that never ends, without a callback.
        self._unparsed_bytes = 0 if self._callbacks != callbacks else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > (self.config.h11_max_incomplete_event_size or MAX_HEADER_BYTES):
            self._refusal = self._too_large()
            self.send_400_response("")
        elif not self._busy() and self._head_timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self._reading_headers = True
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._callbacks += 1
        self._count(len(name) + len(value) + 4)
        max_headers = getattr(self.config, "h11_max_header_count", None) or MAX_HEADERS
        if len(self.headers) > max_headers:
            self._refusal = self._too_large()
            raise self._refusal[1]  # the parser stops, and calls send_400_response

    def on_headers_complete(self) -> None:
        self._callbacks += 1
        self._reading_headers = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._callbacks += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._callbacks += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reading_headers and not self._busy():
            self._start_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_writing_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Send an error for an invalid or refused request, and close the connection."""
        self._stop_timer()
        if self._busy() and (self.pipeline or self.cycle.response_started or not self.cycle.more_body):
            # A response is being sent, or an earlier request still waits for its own: write nothing before
            # it.
            self.transport.close()
            return
        status, error = self._refusal or (400, RequestError("that is not an HTTP request"))
        path = self.url.partition(b"?")[0].decode("latin-1")
        body = json.dumps(error_object(error, path)).encode()
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > (self.config.h11_max_incomplete_event_size or MAX_HEADER_BYTES):
            self._refusal = self._too_large()
            raise self._refusal[1]

    def _too_large(self) -> tuple[int, MIRLError]:
        return HEADERS_TOO_LARGE, RequestTooLargeError("the request's headers are too many, or too large")

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._header_timeout)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_writing_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _header_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or self._busy():
            return
        if self._reading_headers:
            seconds = self.limits.header_seconds
            self._refusal = (408, BodyTimeoutError(f"the headers did not arrive within {seconds:g} s"))
            self.send_400_response("")
        else:
            self.transport.close()
