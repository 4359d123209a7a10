"""Body limits message by message: what is counted, what a refusal closes, and what it leaves to be read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mirl_core.errors import RequestTooLargeError
from mirl_server.http.body_limits import EVENT_STREAM, BodyLimits, refuse
from mirl_server.settings.limits import HTTPSettings

Message = dict[str, Any]


class Wire:
    """A client's messages, and what it was sent; then it leaves, and without any it is silent."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.read = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self.parts:
            await asyncio.Event().wait()
        if self.read == len(self.parts):
            return {"type": "http.disconnect"}
        self.read += 1
        more = self.read < len(self.parts)
        return {"type": "http.request", "body": self.parts[self.read - 1], "more_body": more}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def scope(**headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": "/", "headers": raw}


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ({}, False),
        ({"content_length": "0"}, False),
        ({"content_length": "65536"}, False),
        ({"content_length": "65537"}, True),
        ({"content_length": "9" * 30}, True),
        ({"content_length": "-1"}, True),
        ({"transfer_encoding": "chunked"}, True),
        ({"content_length": "5", "transfer_encoding": "chunked"}, True),
    ],
)
@pytest.mark.parametrize("close", [False, True])
async def test_a_refusal_closes_where_much_may_still_come(
    headers: dict[str, str], closes: bool, close: bool
) -> None:
    wire, error = Wire(b"a", b"b", b"c"), RequestTooLargeError("no")
    await refuse(error, scope(**headers), wire.receive, wire.send, headers=[(b"x", b"y")], close=close)
    closes = closes or close
    start, body, *rest = wire.sent
    assert (start["type"], start["status"]) == ("http.response.start", 413)
    assert ((b"connection", b"close") in start["headers"]) is closes
    assert (b"x", b"y") in start["headers"]
    assert json.loads(body["body"])["error"]["code"] == "request_too_large"
    assert body["more_body"] is closes
    # What is on its way is read first: the end of the answer is the end of the connection.
    assert rest == ([{"type": "http.response.body", "body": b"", "more_body": False}] if closes else [])
    assert wire.read == (3 if closes else 0)


async def test_how_long_a_refused_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    real = asyncio.timeout

    def after(seconds: float | None) -> asyncio.Timeout:
        waits.append(seconds)
        return real(0)

    monkeypatch.setattr("mirl_server.http.body_limits.asyncio.timeout", after)
    for linger in ({}, {"linger": 0.5}):
        wire = Wire()
        await refuse(RequestTooLargeError("no"), scope(), wire.receive, wire.send, close=True, **linger)
        assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert waits == [2.0, 0.5]


@pytest.mark.parametrize(
    ("parts", "announced", "taken"),
    [
        ([b"x" * 10], "10", True),
        ([b"x" * 10], None, True),
        ([b"x" * 5, b"x" * 5], None, True),
        ([b"x" * 11], "11", False),
        ([b"x" * 11], "1" * 30, False),
        ([b"x" * 11], None, False),
        ([b"x" * 5, b"x" * 6], None, False),
        ([b"x" * 5, b"x" * 6], "5", False),
    ],
)
async def test_a_body_is_taken_to_its_last_byte(
    parts: list[bytes], announced: str | None, taken: bool
) -> None:
    wire, got = Wire(*parts), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            got.append(message["body"])
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                return
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise ValueError("what an app makes of a client that left")

    limits = HTTPSettings(max_body_bytes=10)
    request_scope = scope(**({"content_length": announced} if announced else {}))
    await BodyLimits(app, limits)(request_scope, wire.receive, wire.send)
    statuses = [message["status"] for message in wire.sent if "status" in message]
    assert statuses == [200 if taken else 413]
    if taken:
        assert got == parts
        return
    said = json.loads(wire.sent[1]["body"])["error"]["message"]
    assert said == "the request's body is over 10 bytes; send fewer or smaller images"


async def test_an_apps_own_failure_is_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ZeroDivisionError

    wire = Wire(b"x")
    with pytest.raises(ZeroDivisionError):
        await BodyLimits(app, HTTPSettings())(scope(), wire.receive, wire.send)


@pytest.mark.parametrize("started", [False, True])
async def test_who_was_answered_already_is_not_answered_twice(started: bool) -> None:
    wire = Wire(b"x" * 11)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["type"] == "http.disconnect"

    await BodyLimits(app, HTTPSettings(max_body_bytes=10))(scope(), wire.receive, wire.send)
    assert [message["status"] for message in wire.sent if "status" in message] == [200 if started else 413]


@pytest.mark.parametrize(
    ("kind", "stream"),
    [("text/event-stream", True), ("text/event-stream; charset=utf-8", True), ("application/json", False)],
)
async def test_a_stream_is_known_by_its_type(kind: str, stream: bool) -> None:
    wire, request_scope = Wire(b""), scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    await BodyLimits(app, HTTPSettings())(request_scope, wire.receive, wire.send)
    assert request_scope[EVENT_STREAM] is stream
