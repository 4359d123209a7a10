"""One vLLM server over HTTP: bounded connections, and MIRL's errors in place of httpx's.

Keys and prompts are never logged. Errors quote a server's message only up to a limit.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import Mapping
from typing import Any

import httpx

from mirl_core.engines.base import error_from_vllm
from mirl_core.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    ModelNotFoundError,
    RequestError,
    RequestTooLargeError,
    ServerError,
)

CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 5.0
IDLE_SECONDS = 3.0
"""Idle connections are closed before vLLM closes them, after 5 s: a request on a closed one is lost."""
MESSAGE_CHARACTERS = 500


class ConnectionLost(Exception):  # noqa: N818 - an event that the engine handles or turns into an error
    """The connection failed before an answer came. Callers of `Server` handle it; engines never raise it.

    Args:
        sent: whether the server may have begun with the request.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Server:
    """A server and its connections; the pool sets its public fields.

    Args:
        url: base URL, with or without `/v1`.
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
        api_key: str | None = None,
        connections: int = 512,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url)
        self.slots = asyncio.Semaphore(connections)
        self.up = False
        self.reason = "not asked yet"
        """Why the server is not up."""
        self.checked_at = -math.inf
        """Time of the last check; seconds of the event loop's clock."""
        self.version: str | None = None
        """Version of the weights last pushed to the server; None before the first push."""
        self.counts_cached = False
        """Whether it reports how much of a prompt was cached (`--enable-prompt-tokens-details`)."""
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key has characters that no header can carry")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

        def client(connections: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
                transport=transport or _transport(connections),
            )

        self._work = client(connections)
        self._control = client(8)

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | bytes,
        *,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ) -> Any:
        """POST a request for rendering or tokens and return its answer; see `_request`."""
        return await self._request(self._work, "POST", path, body, headers=headers, param=param)

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
        """Return whether server and engine live, by vLLM's health check."""
        try:
            await self.control("GET", "/health", timeout=HEALTH_SECONDS)
        except (ConnectionLost, EngineError, RequestError):
            return False
        return True

    async def close(self) -> None:
        await self._work.aclose()
        await self._control.aclose()

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
                **options,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectionLost(f"{self.url} can't be reached: {_short(error)}", sent=False) from error
        except httpx.TimeoutException as error:
            raise ServerError(f"{self.url} did not answer {path} in time", None) from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise ConnectionLost(
                f"the connection to {self.url} was lost: {_short(error)}", sent=True
            ) from error
        except httpx.HTTPError as error:
            # The error's text may quote a header, which may hold the key.
            raise EngineError(f"no request to {self.url} is possible: {type(error).__name__}") from error
        except RuntimeError as error:
            if not client.is_closed:
                raise
            raise EngineDeadError("the engine is closed") from error
        return self._answer(response, path, param)

    def _answer(self, response: httpx.Response, path: str, param: str | None) -> Any:
        status = response.status_code
        if response.is_success:
            if not response.content:
                return None
            try:
                return response.json()
            except ValueError as error:
                raise EngineError(f"{self.url}{path} answered something that is not JSON") from error
        message, field, kind = _error_details(response)
        if status == 404 and kind == "NotFoundError":
            raise ModelNotFoundError(message, param=field)
        if status in (404, 405):
            raise ServerError(f"{self.url} has no {path}: it is another server than vLLM 0.32", status)
        if status == 413:
            raise RequestTooLargeError(message, param=param or field)
        if status in (400, 422):
            raise error_from_vllm(message, param or field)
        raise ServerError(f"{self.url}{path} failed with status {status}: {message}", status)


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


def _error_details(response: httpx.Response) -> tuple[str, str | None, str | None]:
    """Return message, field and error type of a refusal."""
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error", body.get("detail")) if isinstance(body, dict) else response.text
    if not isinstance(error, dict):
        return _short(error), None, None
    return _short(error.get("message")), error.get("param"), error.get("type")


def _short(message: object) -> str:
    text = " ".join(str(message or "").split()) or type(message).__name__
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}…"
