"""How long connections, bodies and unread answers are waited for, from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mirl_server.http.body_limits import BodyLimits
from mirl_server.http.uvicorn_protocol import BoundedProtocol
from mirl_server.settings.limits import HTTPSettings
from tests.unit.server.harness import Build
from tests.unit.server.http.serving import connection, serving


class Timers:
    """The seconds after which the running loop is to call methods of connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: list[tuple[str, float]] = []
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def watched(
            delay: float, callback: Callable[..., Any], *what: Any, **how: Any
        ) -> asyncio.TimerHandle:
            name = getattr(callback, "__name__", "")
            if name in ("_header_timeout", "abort"):
                self.set.append((name, delay))
            return call_later(delay, callback, *what, **how)

        monkeypatch.setattr(loop, "call_later", watched)


async def test_how_long_connections_are_borne(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    limits = HTTPSettings(header_seconds=123.0, write_seconds=45.0)
    async with serving(build().app, limits) as port, connection(port) as (reader, writer):
        writer.write(b"GET /ready HTTP/1.1\r\nhost: t\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert set(timers.set) == {("_header_timeout", 123.0)}


async def test_an_answer_unread_is_borne_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    protocol = BoundedProtocol.__new__(BoundedProtocol)
    protocol.limits = HTTPSettings(write_seconds=45.0)
    protocol.loop, protocol._write_timer = asyncio.get_running_loop(), None

    class Flow:
        def pause_writing(self) -> None: ...
        def resume_writing(self) -> None: ...

    class Transport:
        def abort(self) -> None: ...

    protocol.flow, protocol.transport = Flow(), Transport()  # type: ignore[assignment]
    protocol.pause_writing()
    protocol.pause_writing()
    assert timers.set == [("abort", 45.0)]
    protocol.resume_writing()
    assert protocol._write_timer is None


@pytest.mark.parametrize("read", [1, 3])
async def test_how_long_a_body_may_take(monkeypatch: pytest.MonkeyPatch, read: int) -> None:
    """From the first read, however many parts it comes in; then a 408 that names the limit."""
    ends: list[float | None] = []
    real = asyncio.timeout_at
    began = asyncio.get_running_loop().time()

    def at(when: float | None) -> asyncio.Timeout:
        ends.append(when)
        return real(0 if len(ends) > read else when)  # the last of them is over at once

    monkeypatch.setattr("mirl_server.http.body_limits.asyncio.timeout_at", at)
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": b"x", "more_body": True}] * read

    async def receive() -> Any:
        if parts:
            return parts.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    scope = {"type": "http", "headers": [], "method": "POST", "path": "/"}
    await BodyLimits(app, HTTPSettings(body_seconds=77))(scope, receive, send)
    assert len(ends) == read + 1
    assert len(set(ends)) == 1
    assert ends[0] is not None
    assert 77 <= ends[0] - began < 78
    assert sent[0]["status"] == 408
    assert b"did not arrive within 77 s" in sent[1]["body"]
