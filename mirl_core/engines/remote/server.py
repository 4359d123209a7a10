"""One vLLM server by HTTP: bounded connections in, its answers or MIRL's errors out; nothing of httpx passes.

Keys and prompts are never logged, and a server's message is cut before it goes into an error.
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
"""Idle connections are given up before vLLM does that, after 5 s: a request on a closed one is lost."""
MESSAGE_CHARACTERS = 500


class ConnectionLost(Exception):  # noqa: N818 - says what happened to the request; the engine turns it into an error
    """No answer came, because the connection failed. Stays within the engine.

    Args:
        sent: whether the server may have begun with the request.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Server:
    """One server and its connections; the pool keeps its fields.

    Args:
        url: base URL, with or without `/v1`.
        api_key: sent as bearer token.
        connections: most requests in flight; more wait here. Health checks and aborts never wait behind them.
        timeout: longest wait for one answer; seconds.
        transport: in place of httpx's own, for tests.

    Raises:
        ConfigError: the URL is no HTTP URL, or carries a password, which would show in logs; or the key can't
            be sent.
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
        """Why it is not up."""
        self.asked = -math.inf
        """When it was last checked; seconds of the loop's clock."""
        self.version: str | None = None
        """The weights pushed to it last; None where none were."""
        self.counts_cached = False
        """Whether it tells how much of a prompt was cached (`--enable-prompt-tokens-details`)."""
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key has characters that no header can carry")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

        def client(most: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
                transport=transport or _transport(most),
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
        """POST work; see `_request`."""
        return await self._request(self._work, "POST", path, body, headers=headers, param=param)

    async def control(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109 - httpx's own
    ) -> Any:
        """A request beside the work; see `_request`."""
        return await self._request(self._control, method, path, body, query=query, timeout=timeout)

    async def healthy(self) -> bool:
        """Whether server and engine live, by vLLM's own word."""
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
        timeout: float | None = None,  # noqa: ASYNC109 - httpx's own
        param: str | None = None,
    ) -> Any:
        """The answer's JSON, None for an empty one. Cancelled, it closes the connection: vLLM frees the work.

        Args:
            param: the request's field to blame for a refusal where the server names none.

        Raises:
            ConnectionLost: the connection failed.
            RequestError: the server refuses the request.
            ServerError: it failed, or didn't answer in time.
            EngineError: it answers nonsense.
        """
        content = body if isinstance(body, bytes) or body is None else to_json(body)
        more: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            response = await client.request(
                method,
                path,
                content=content,
                params=query,
                headers={**({"Content-Type": "application/json"} if content else {}), **(headers or {})},
                **more,
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
            # Its text may hold a header, and that the key.
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
        message, field, kind = _complaint(response)
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
    """The base URL without `/v1` and closing slashes.

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
    """As vLLM takes it.

    Raises:
        RequestError: it can't be said in JSON (NaN as a temperature, an object in a message).
    """
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise RequestError(f"the request can't be sent: {error}") from error


def _transport(connections: int) -> httpx.AsyncHTTPTransport:
    # A server that vanishes without a word is noticed within minutes, however long an answer may take.
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
    )
    return httpx.AsyncHTTPTransport(limits=limits, socket_options=options)


def _complaint(response: httpx.Response) -> tuple[str, str | None, str | None]:
    """What a refusal says: message, field, kind."""
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
