"""The layer of authentication by itself: which messages pass it, and the caller that a route sees."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message, Receive, Scope, Send

from mirl_server.access.authentication import CALLER, Authentication, Caller, caller_of
from mirl_server.access.keys import Keyring
from mirl_server.access.quotas import Quotas
from mirl_server.observability.logs import begin_notes
from mirl_server.settings.limits import AccessSettings, KeyLimits

KEY = "0123456789abcdef-a"
TENANT = hashlib.sha256(KEY.encode()).hexdigest()
NO_KEY = "no API key: send 'Authorization: Bearer KEY' (an OpenAI client's api_key) or 'x-api-key'"
START: Message = {"type": "http.response.start", "status": 200}
RESPONSE: list[Message] = [
    {**START, "headers": [(b"x", b"y")]},
    {"type": "http.response.body", "body": b'{"usage":{"completion_', "more_body": True},
    {"type": "http.response.body", "more_body": True},
    {"type": "http.response.body", "body": b'tokens":7}}'},
]


class App:
    """An application that keeps what it is called with, and sends messages."""

    def __init__(self, *messages: Message, generated: int | None = None, fails: bool = False) -> None:
        self.calls: list[tuple[Scope, Receive, Send]] = []
        self._messages = messages
        self._generated = generated
        self._fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append((scope, receive, send))
        if self._generated is not None:
            scope[CALLER].generated = self._generated
        for message in self._messages:
            await send(message)
        if self._fails:
            raise ZeroDivisionError


async def receive() -> Message:
    return {"type": "http.disconnect"}


class Client:
    """The other end of a request: its scope and the messages that it gets."""

    def __init__(self, path: str = "/v1", key: str | None = None, kind: str = "http", **fields: Any) -> None:
        self.sent: list[Message] = []
        headers = [] if key is None else [(b"x-api-key", key.encode())]
        self.scope: Scope = {"type": kind, "path": path, "method": "POST", "headers": headers, **fields}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def ask(self, app: App, quotas: Quotas | None = None, **limits: Any) -> None:
        fields = ", ".join(f"{name}: {value}" for name, value in limits.items())
        ring = Keyring(text=f"team: {{key: {KEY}, {fields}}}" if fields else f"team: {KEY}")
        layer = Authentication(app, ring, quotas or Quotas(), AccessSettings())
        await layer(self.scope, receive, self.send)


@pytest.mark.parametrize(
    ("scope", "caller"),
    [
        ({"path": "/health"}, None),
        ({"path": "/api/ready", "root_path": "/api"}, None),
        ({"kind": "lifespan"}, None),
        ({"key": KEY}, Caller("team", TENANT)),
        ({"key": KEY, "kind": "websocket"}, Caller("team", TENANT)),
    ],
)
async def test_what_passes_passes_unchanged(scope: dict[str, Any], caller: Caller | None) -> None:
    app, client = App(START), Client(**scope)
    await client.ask(app)
    assert app.calls == [(client.scope, receive, client.send)]
    assert client.scope.get(CALLER) == caller
    assert client.sent == [START]


@pytest.mark.parametrize("key", [None, KEY])
async def test_without_keys_every_client_has_the_default_limits(key: str | None) -> None:
    app, client, limits = App(), Client(key=key), KeyLimits(concurrent=3)
    await Authentication(app, Keyring(), Quotas(), AccessSettings(limits=limits))(
        client.scope, receive, client.send
    )
    assert client.scope[CALLER] == Caller("anonymous", TENANT if key else None, limits)


@pytest.mark.parametrize(("key", "reason"), [(None, NO_KEY), ("wrong", "the API key is not known here")])
async def test_a_refusal_says_what_is_wrong_with_the_key(key: str | None, reason: str) -> None:
    refused: list[tuple[str, str]] = []
    quotas = Quotas(refused=lambda *what: refused.append(what))
    app, socket = App(), Client(key=key, kind="websocket")
    await socket.ask(app, quotas)
    assert socket.sent == [{"type": "websocket.close", "code": 1008, "reason": reason}]
    # A large body is read off, so that the client sees the response.
    client = Client(key=key)
    client.scope["headers"] = [*client.scope["headers"], (b"content-length", b"9999999")]
    await client.ask(app, quotas)
    assert client.sent[0]["status"] == 401
    assert reason.encode() in client.sent[1]["body"]
    assert client.sent[2] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert app.calls == []
    assert refused == [("key", "anonymous")] * 2


async def test_a_key_over_its_limits_is_refused_with_its_headers(now: list[float]) -> None:
    refused: list[tuple[str, str]] = []
    quotas, app = Quotas(refused=lambda *what: refused.append(what)), App()
    await Client(key=KEY).ask(app, quotas, requests_per_minute=1)
    client = Client(key=KEY)
    client.scope["headers"] = [*client.scope["headers"], (b"content-length", b"9999999")]
    await client.ask(app, quotas, requests_per_minute=1)
    assert (client.sent[0]["status"], len(client.sent), len(app.calls)) == (429, 3, 1)
    assert {name: value for name, value in client.sent[0]["headers"] if name.startswith(b"x-ratelimit")} == {
        b"x-ratelimit-limit-requests": b"1",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"60.000s",
    }
    assert refused == [("requests", "team")]


@pytest.mark.parametrize(
    ("generated", "fails", "left"),
    [(None, False, b"93"), (5, False, b"95"), (0, False, b"100"), (5, True, b"95")],
)
async def test_a_limited_response_gets_headers_and_is_charged(
    now: list[float], generated: int | None, fails: bool, left: bytes
) -> None:
    quotas, client, app = Quotas(), Client(key=KEY), App(*RESPONSE, generated=generated, fails=fails)
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        await client.ask(app, quotas, tokens_per_minute=100)
    (scope, app_receive, _), *others = app.calls
    assert (scope, app_receive, others) == (client.scope, receive, [])
    assert client.sent == [
        {
            **RESPONSE[0],
            "headers": [
                (b"x", b"y"),
                (b"x-ratelimit-limit-tokens", b"100"),
                (b"x-ratelimit-remaining-tokens", b"100"),
                (b"x-ratelimit-reset-tokens", client.sent[0]["headers"][3][1]),
            ],
        },
        *RESPONSE[1:],
    ]
    headers = dict(await quotas.headers("team", KeyLimits(tokens_per_minute=100)))
    assert headers[b"x-ratelimit-remaining-tokens"] == left


async def test_a_response_without_headers_gets_those_of_the_limits(now: list[float]) -> None:
    client = Client(key=KEY)
    await client.ask(App(START), requests_per_minute=9)
    assert [name for name, _ in client.sent[0]["headers"]] == [
        b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests"
    ]  # fmt: skip
    assert client.sent[0]["status"] == 200


async def test_the_log_line_has_the_keys_name() -> None:
    client = Client(key=KEY, state={})
    notes = begin_notes(client.scope)
    await client.ask(App())
    assert notes == {"key": "team"}


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"x-api-key", b"  ")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"x-api-key", b" one ")], b"one"),
        ([(b"authorization", b"bEARER  two words "), (b"x-api-key", b"one")], b"two words"),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"one")], b"one"),
        ([(b"authorization", b"Bearer \xe4")], b"\xe4"),
        ([(b"x-api-key", b"\xe4")], b"\xe4"),
    ],
)
def test_without_the_layer_a_caller_is_known_by_its_key_alone(
    headers: list[tuple[bytes, bytes]], key: bytes | None
) -> None:
    tenant = None if key is None else hashlib.sha256(key).hexdigest()
    assert caller_of(Request({"type": "http", "headers": headers})) == Caller(
        "anonymous", tenant, KeyLimits()
    )
    known = Caller("team", "tenant", KeyLimits(concurrent=1), 3)
    assert caller_of(Request({"type": "http", "headers": headers, CALLER: known})) is known
