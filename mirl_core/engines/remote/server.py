"""One vLLM server over HTTP: bounded connections, and MIRL's errors in place of httpx's.

Keys and prompts are never logged. Errors quote a server's message only up to a limit.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from mirl_core.engines.common.concurrency import cancel_and_wait
from mirl_core.engines.remote.answers import read_answer, short
from mirl_core.engines.remote.pool.breaker import Breaker
from mirl_core.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    RequestError,
    ServerError,
)

CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 5.0
IDLE_SECONDS = 3.0
"""Idle connections are closed before vLLM closes them, after 5 s: a request on a closed one is lost."""


class ConnectionLost(Exception):  # noqa: N818 - an event that the engine handles or turns into an error
    """The connection failed before an answer came. Callers of `Server` handle it; engines never raise it.

    Args:
        sent: whether the server may have begun with the request.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(slots=True)
class Counters:
    """What happened at a server since it joined, for metrics."""

    requests: int = 0
    """Requests for rendering or tokens that were sent to it."""
    failures: int = 0
    """Those that failed by the server's fault."""
    moved: int = 0
    """Those that were sent again, to another server, after they failed here."""
    openings: int = 0
    """How often it was left out because it failed."""
    stalls: int = 0
    """How often it was left out because it stopped answering."""


class Server:
    """A server and its connections; the pool sets its public fields.

    Args:
        url: base URL, with or without `/v1`.
        address: IP address to connect to, where the URL's name stands for several servers. The `Host` header
            and the name that a certificate is checked against stay the URL's.
        api_key: sent as bearer token.
        connections: most requests in flight; further requests wait for a slot. Health checks and aborts use
            separate connections and never wait.
        timeout: longest wait for one answer; seconds.
        transport: replaces httpx's transport in tests.

    Raises:
        ConfigError: the URL is no HTTP URL, or carries a password, which would show in logs; or a header
            can't carry the key.
    """

    def __init__(
        self,
        url: str,
        *,
        address: str | None = None,
        api_key: str | None = None,
        connections: int = 512,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url)
        self.address = address
        self.slots = asyncio.Semaphore(connections)
        self.up = False
        """Whether it has joined, and neither failed nor left since."""
        self.reason = "not checked yet"
        """Why the server is not up."""
        self.refused = False
        """Whether it answered, but is not what the engine needs."""
        self.left = False
        """Whether its name no longer stands for it."""
        self.breaker = Breaker()
        self.weights_version: str | None = None
        """Version of the weights last pushed to the server; None before the first push."""
        self.vllm_version: str | None = None
        """Version of vLLM that it runs; None: not known."""
        self.counts_cached = False
        """Whether it reports how much of a prompt was cached (`--enable-prompt-tokens-details`)."""
        self.picked = 0
        """How often it was chosen for new work."""
        self.in_flight = 0
        """Sequences that it works on for this process."""
        self.counters = Counters()
        self.silent_since = math.inf
        """Time of its last answer, or of its oldest work after that, on the event loop's clock; seconds."""
        self._lost: asyncio.Future[None] | None = None
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key has characters that no header can carry")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        base = httpx.URL(self.url)
        self._extensions: dict[str, Any] = {}
        if address is not None:
            headers["Host"] = base.netloc.decode()
            self._extensions["sni_hostname"] = base.host
            base = base.copy_with(host=address)

        def client(connections: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=base,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
                transport=transport or _transport(connections),
            )

        self._work = client(connections)
        self._control = client(8)

    @property
    def name(self) -> str:
        """The URL, with the address where the URL's name stands for several servers."""
        return self.url if self.address is None else f"{self.url} ({self.address})"

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count one sequence, for as long as the block runs, to the server's load."""
        if not self.in_flight:
            self.silent_since = asyncio.get_running_loop().time()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.silent_since = math.inf

    def silent_for(self, now: float) -> float:
        """Return how long the server has answered nothing though it has work; seconds."""
        return now - self.silent_since

    def answered(self) -> None:
        """Note that the server has answered just now."""
        if self.in_flight:
            self.silent_since = asyncio.get_running_loop().time()

    def abandon(self) -> None:
        """End all requests in flight as lost connections: the server hangs."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self._lost = None

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | bytes,
        *,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ) -> Any:
        """POST a request for rendering or tokens and return its answer; see `_request`."""
        self.counters.requests += 1
        with self.working():
            answer = await self._unless_abandoned(
                self._request(self._work, "POST", path, body, headers=headers, param=param)
            )
            self.answered()
        return answer

    async def control(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109 - httpx's
    ) -> Any:
        """Send a control request on separate connections and return its answer; see `_request`."""
        return await self._request(self._control, method, path, body, query=query, timeout=timeout)

    async def healthy(self) -> bool:
        """Return whether server and engine live, by vLLM's health check; other servers may have none."""
        try:
            await self.control("GET", "/health", timeout=HEALTH_SECONDS)
        except ServerError as error:
            return error.status in (404, 405)
        except (ConnectionLost, EngineError, RequestError):
            return False
        return True

    async def close(self) -> None:
        await self._work.aclose()
        await self._control.aclose()

    async def _unless_abandoned(self, request: Coroutine[Any, Any, Any]) -> Any:
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        lost = self._lost
        task = asyncio.ensure_future(request)
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionLost(f"{self.name} hangs: it answers nothing", sent=True)
            return task.result()
        finally:
            if task.done():
                # Its error is retrieved also where this call is cancelled at the same moment.
                _ = task.cancelled() or task.exception()
            else:
                await cancel_and_wait([task])

    async def _request(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpx's
        param: str | None = None,
    ) -> Any:
        """Send a request and return its answer's JSON; None for an empty answer.

        Cancellation closes the connection, whereupon vLLM ends the request.

        Args:
            param: the request's field to blame for a refusal where the server names none.
            timeout: longest wait for the answer, seconds; None: the client's.

        Raises:
            ConnectionLost: the connection failed.
            RequestError: the server refuses the request.
            ServerError: the server failed, or didn't answer in time.
            EngineError: the answer is not JSON.
        """
        content = body if isinstance(body, bytes) or body is None else to_json(body)
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            response = await client.request(
                method,
                path,
                content=content,
                params=query,
                headers={**({"Content-Type": "application/json"} if content else {}), **(headers or {})},
                extensions=self._extensions,
                **options,
            )
        except (httpx.HTTPError, RuntimeError) as error:
            raise self._failure(error, client, path) from error
        return read_answer(response, f"{self.name}{path}", param)

    def _failure(self, error: Exception, client: httpx.AsyncClient, path: str) -> Exception:
        """Return what to raise for an error of httpx."""
        match error:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                return ConnectionLost(f"{self.name} can't be reached: {short(error)}", sent=False)
            case httpx.TimeoutException():
                return ServerError(f"{self.name} did not answer {path} in time", None)
            case httpx.NetworkError() | httpx.RemoteProtocolError():
                return ConnectionLost(f"the connection to {self.name} was lost: {short(error)}", sent=True)
            case httpx.HTTPError():
                # The error's text may quote a header, which may hold the key.
                return EngineError(f"no request to {self.name} is possible: {type(error).__name__}")
            case _ if client.is_closed:
                return EngineDeadError("the engine is closed")
        return error


def checked_url(url: str) -> str:
    """Return the base URL without `/v1` and trailing slashes.

    Raises:
        ConfigError: see `Server`.
    """
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise ConfigError(f"{error} in a server's URL") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{parsed.host or url!r} is no URL of a server; write http://HOST:PORT")
    if parsed.userinfo:
        raise ConfigError(f"the URL of {parsed.host} carries a password; give it as api_key")
    return str(parsed).rstrip("/").removesuffix("/v1").rstrip("/")


def to_json(body: Mapping[str, Any]) -> bytes:
    """Return a request's body as JSON.

    Raises:
        RequestError: a value has no JSON form (NaN as a temperature, an object in a message).
    """
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise RequestError(f"the request can't be sent: {error}") from error


def _transport(connections: int) -> httpx.AsyncHTTPTransport:
    # Keep-alive probes detect a server that vanishes silently within minutes, however long an answer takes.
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
    )
    return httpx.AsyncHTTPTransport(limits=limits, socket_options=options)
