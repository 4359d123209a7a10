"""Authentication: the layer that checks API keys first, and applies each key's limits to its requests.

Every path needs a key except the open ones, so a route that a later version of the backend adds is closed.
Pure ASGI: streams pass unchanged. Without any configured key the server is open to all clients, under the
default limits.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_core.errors import AuthenticationError, RateLimitError
from mirl_server.access.keys import ANONYMOUS, Keyring, digest, find_key
from mirl_server.access.quotas import Quotas, TokenMeter
from mirl_server.http.body_limits import refuse
from mirl_server.http.scope import route_path
from mirl_server.observability.logs import note
from mirl_server.settings.limits import AccessSettings, KeyLimits

CALLER = "mirl.caller"
READING = ("GET", "HEAD", "OPTIONS")


@dataclass(slots=True)
class Caller:
    """The client of a request."""

    name: str = ANONYMOUS
    """A bounded label: the name in the key file, `key-N`, `vllm-N`, or `anonymous`."""
    tenant: str | None = None
    """The presented key's digest in hexadecimal, from either header; None without a key."""
    limits: KeyLimits = field(default_factory=KeyLimits)
    generated: int | None = None
    """Tokens generated for this request, where a route counts them; None: the response's usage counts."""


def caller_of(request: Request) -> Caller:
    """Return the client of a request; without the middleware an anonymous one with its key's digest."""
    caller = request.scope.get(CALLER)
    if isinstance(caller, Caller):
        return caller
    presented = presented_key(request.headers)
    return Caller(tenant=digest(presented).hex() if presented else None)


def presented_key(headers: Headers) -> bytes | None:
    """Return the key of `Authorization: Bearer …` (OpenAI) or `x-api-key` (Anthropic)."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip().encode("latin-1")
    api_key = headers.get("x-api-key", "").strip()
    return api_key.encode("latin-1") if api_key else None


class Authentication:
    """ASGI middleware that refuses requests without a known key, and those of a key over its limits.

    Args:
        keyring: the known keys; empty: no key is needed.
        quotas: the use of each key's limits.
        settings: open paths, and the limits that apply where no key is needed.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, quotas: Quotas, settings: AccessSettings) -> None:
        self.app = app
        self.keyring = keyring
        self.quotas = quotas
        self._open = frozenset(settings.open_paths)
        self._defaults = settings.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        await self.keyring.refresh()
        try:
            caller = self._identify(Headers(scope=scope))
        except AuthenticationError as error:
            self.quotas.refused("key", ANONYMOUS)
            await _refuse(error, scope, receive, send)
            return
        scope[CALLER] = caller
        note(scope, key=caller.name)
        async with AsyncExitStack() as using:
            if scope.get("method") not in READING:
                try:
                    await using.enter_async_context(self.quotas.use(caller.name, caller.limits))
                except RateLimitError as error:
                    headers = await self.quotas.headers(caller.name, caller.limits)
                    await _refuse(error, scope, receive, send, headers)
                    return
            await self._pass(caller, scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["type"] == "http" and route_path(scope) in self._open

    def _identify(self, headers: Headers) -> Caller:
        presented = presented_key(headers)
        if not self.keyring:
            return Caller(tenant=digest(presented).hex() if presented else None, limits=self._defaults)
        if presented is None:
            raise AuthenticationError(
                "no API key: send 'Authorization: Bearer KEY' (an OpenAI client's api_key) or 'x-api-key'"
            )
        key = find_key(self.keyring.keys, presented)
        if key is None:
            raise AuthenticationError("the API key is not known here")
        return Caller(key.name, digest(presented).hex(), key.limits)

    async def _pass(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        limits = caller.limits
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            await self.app(scope, receive, send)
            return
        meter = TokenMeter()

        async def metered(message: Message) -> None:
            if message["type"] == "http.response.start":
                quota_headers = await self.quotas.headers(caller.name, limits)
                message = {**message, "headers": [*message.get("headers", []), *quota_headers]}
            elif message["type"] == "http.response.body" and caller.generated is None:
                meter.feed(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, metered)
        finally:
            tokens = meter.tokens if caller.generated is None else caller.generated
            await self.quotas.charge(caller.name, limits, tokens)


async def _refuse(
    error: AuthenticationError | RateLimitError,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    if scope["type"] == "websocket":
        # Closed before it is accepted: the client sees a 403.
        await send({"type": "websocket.close", "code": 1008, "reason": error.message})
        return
    await refuse(error, scope, receive, send, headers=headers)
