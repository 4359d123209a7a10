"""Plain requests, passed on to an engine over HTTP: choice of the engine, headers, and the streamed response.

The engine with the fewest running requests is chosen. A request goes to another engine only if the first
did no work on it: the connection was refused, or the engine said that it takes no requests (503). A
client that leaves closes the connection to its engine, whereupon vLLM ends the request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import httpx
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mirl_core.errors import EngineDeadError, MIRLError, ServerError
from mirl_server.gateway.metrics import GatewayMetrics
from mirl_server.handling.service import service_of
from mirl_server.handling.streaming import ClientGone, error_event, unless_gone
from mirl_server.http.scope import route_path
from mirl_server.observability.request_observer import count_error
from mirl_server.settings.engines import EngineSettings

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 3.0
"""Idle connections are closed before vLLM closes them, after 5 s: a request on a closed one is lost."""
HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""RFC 9110, 7.6.1: headers of one connection."""
KEPT_FROM_ENGINES = HOP_BY_HOP | {
    # Keys and cookies are for the gateway.
    "authorization", "x-api-key", "api-key", "cookie",
    "host", "content-length", "expect", "accept-encoding", "origin", "referer",
}  # fmt: skip
KEPT_FROM_CLIENTS = HOP_BY_HOP | {
    "content-length", "date", "server", "set-cookie", "www-authenticate", "x-request-id",
}  # fmt: skip
_CORS = "access-control-"
UNAVAILABLE = 503


class Engine(Protocol):
    """An engine as the gateway sees it."""

    @property
    def name(self) -> str:
        """Its URL, and its address where the URL's name stands for several engines."""
        ...

    @property
    def url(self) -> str:
        """Its base URL, without a slash at its end."""
        ...

    @property
    def address(self) -> str | None:
        """The IP address to connect to; None: resolve the URL's host name."""
        ...

    @property
    def in_flight(self) -> int:
        """Sequences that it works on for this process."""
        ...

    def working(self) -> AbstractContextManager[None]:
        """Count one sequence to its load, for as long as the block runs."""
        ...


Content = bytes | Callable[[Engine], bytes]


class Engines(Protocol):
    """The engines that requests can go to."""

    def ready(self) -> Sequence[Engine]:
        """Return the engines that are ready."""
        ...

    def why_none(self) -> str:
        """Return why none is ready."""
        ...

    def suspect(self) -> None:
        """Have the engines checked soon: a request has failed."""
        ...


class Upstream:
    """Passes requests on to engines.

    Args:
        transport: replaces httpx's transport in tests.
    """

    def __init__(
        self,
        engines: Engines,
        settings: EngineSettings,
        metrics: GatewayMetrics,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._engines = engines
        self._metrics = metrics
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        self.client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.seconds, connect=CONNECT_SECONDS, pool=None),
            transport=transport
            or httpx.AsyncHTTPTransport(
                limits=httpx.Limits(
                    max_connections=None, max_keepalive_connections=256, keepalive_expiry=IDLE_SECONDS
                )
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    async def send(
        self, request: Request, path: str, content: Content, stores: Callable[[Engine], bool] | None = None
    ) -> Response:
        """Return an engine's response to a request whose body has been read.

        Args:
            path: the path at the engine.
            content: the body; a function of the engine where it depends on it.
            stores: tells whether an engine stores what the request is about; such an engine is tried first,
                then any.

        Raises:
            EngineDeadError: no engine is ready.
            ServerError: the engine failed, or refuses the gateway.
            ClientGone: the client left before the response began.
        """
        return await unless_gone(request.receive, self._send(request, path, content, stores))

    async def _send(
        self, request: Request, path: str, content: Content, stores: Callable[[Engine], bool] | None
    ) -> Response:
        tried: set[str] = set()
        while True:
            engine = self.choose(tried, stores)
            if engine is None:
                raise EngineDeadError(self._engines.why_none())
            if tried:
                self._metrics.retries.inc()
            tried.add(engine.name)
            try:
                body = content(engine) if callable(content) else content
                response = await self._open(engine, request, path, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self._failed(engine, "unreachable")
                continue
            if response.status != UNAVAILABLE or self.choose(tried, stores) is None:
                return await response.answer(request)
            self._failed(engine, "unavailable")
            await response.close()

    def choose(self, tried: set[str], stores: Callable[[Engine], bool] | None) -> Engine | None:
        """Return the engine of a request; None where no ready one is left.

        Args:
            tried: names of engines that the request has been sent to.
            stores: tells whether an engine stores what the request is about; such an engine is tried first,
                then any.
        """
        ready = [engine for engine in self._engines.ready() if engine.name not in tried]
        if stores is not None and (own := [engine for engine in ready if stores(engine)]):
            return own[0]
        return min(ready, key=lambda engine: engine.in_flight, default=None)

    def _failed(self, engine: Engine, kind: str) -> None:
        self._metrics.errors.labels(engine.name, kind).inc()
        self._engines.suspect()

    async def _open(self, engine: Engine, request: Request, path: str, content: bytes) -> _EngineResponse:
        """Send the request, and return the response once its headers are there.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: nothing was sent.
            ServerError: the engine failed.
        """
        with ExitStack() as work:
            work.enter_context(engine.working())
            work.enter_context(self._metrics.running.labels(engine.name).track_inprogress())
            try:
                response = await self.client.send(self._message(engine, request, path, content), stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                raise
            except httpx.HTTPError as error:
                kind = "timeout" if isinstance(error, httpx.TimeoutException) else "lost"
                self._failed(engine, kind)
                raise _lost(kind) from error
            self._metrics.passed.labels(engine.name, f"{response.status_code // 100}xx").inc()
            # It runs until the response is closed.
            ended = work.pop_all().close
            return _EngineResponse(response, ended, lambda kind: self._failed(engine, kind))

    def _message(self, engine: Engine, request: Request, path: str, content: bytes) -> httpx.Request:
        """Return the request to the engine."""
        url, query = httpx.URL(f"{engine.url}{path}"), request.url.query
        headers, extensions = _forwarded(request), {}
        if engine.address is not None:
            headers["host"] = url.netloc.decode()
            extensions["sni_hostname"] = url.host
            url = url.copy_with(host=engine.address)
        if query:
            url = url.copy_with(query=query.encode())
        return self.client.build_request(
            request.method, url, content=content or None, headers=headers, extensions=extensions
        )


class _EngineResponse:
    """A response of an engine, whose body is still to come."""

    def __init__(
        self, response: httpx.Response, ended: Callable[[], None], failed: Callable[[str], None]
    ) -> None:
        self.status = response.status_code
        self._response = response
        self._ended: Callable[[], None] | None = ended
        self._failed = failed

    async def close(self) -> None:
        """Close the connection, whereupon vLLM ends a request that still runs; further calls do nothing."""
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended()
            await self._response.aclose()

    async def answer(self, request: Request) -> Response:
        """Return the response to the client: whole, or as it comes where it is a stream of events.

        Raises:
            ServerError: the engine refuses the gateway's key, or the connection broke.
        """
        if self.status in (401, 403):
            await self.close()
            self._failed("refused")
            raise ServerError("the engine refuses the gateway's key (--engine-api-key)", self.status)
        kind = self._response.headers.get("content-type", "")
        if self.status < 400 and kind.startswith("text/event-stream"):
            return _Stream(self, request, self.status, _returned(self._response))
        try:
            content = await self._response.aread()
        except httpx.HTTPError as error:
            self._failed("lost")
            raise _lost("lost") from error
        finally:
            await self.close()
        return Response(content, self.status, _returned(self._response))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream, each whole: however the network has cut them.

        Raises:
            ServerError: the connection broke.
        """
        rest = b""
        try:
            async for chunk in self._response.aiter_raw():
                head, separator, rest = (rest + chunk).rpartition(b"\n\n")
                if separator:
                    for event in head.split(b"\n\n"):
                        yield event + separator
        except httpx.HTTPError as error:
            self._failed("lost")
            raise _lost("lost") from error
        if rest:
            yield rest


class _Stream(StreamingResponse):
    """A stream of an engine's events; however it ends, so does the engine's request."""

    def __init__(
        self, response: _EngineResponse, request: Request, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(response.events(), status, headers)
        self._response = response
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._stream(send))
        except ClientGone:
            pass
        finally:
            await self._response.close()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self.body_iterator:
                body = chunk.encode() if isinstance(chunk, str) else bytes(chunk)
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except MIRLError as error:
            count_error(service_of(self._request), self._request, error)
            body = error_event(route_path(self._request.scope), error).encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _forwarded(request: Request) -> dict[str, str]:
    """Return a request's headers for an engine."""
    named = {name.strip().lower() for name in request.headers.get("connection", "").split(",")}
    dropped = KEPT_FROM_ENGINES | named
    headers = {name: value for name, value in request.headers.items() if name not in dropped}
    if request_id := getattr(request.state, "request_id", None):
        headers["x-request-id"] = request_id
    # The bodies are passed on as they are, and some are read on the way.
    return headers | {"accept-encoding": "identity"}


def _returned(response: httpx.Response) -> dict[str, str]:
    """Return an engine's headers for the client."""
    named = {name.strip().lower() for name in response.headers.get("connection", "").split(",")}
    dropped = KEPT_FROM_CLIENTS | named
    return {
        name: value
        for name, value in response.headers.items()
        if name not in dropped and not name.startswith(_CORS)
    }


def _lost(kind: str) -> ServerError:
    if kind == "timeout":
        return ServerError("the engine did not answer in time")
    return ServerError("the connection to the engine was lost before its answer was complete")
