"""How long a wait is said to be, on a clock that the test holds; how long bodies and clients are borne."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mirl_core.errors import BusyError, DrainingError
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import Decided, Finished, Started
from mirl_server.handling.admission import Admission
from mirl_server.handling.streaming import EventReader, Idle
from mirl_server.http.body_limits import BodyLimits
from mirl_server.http.uvicorn_protocol import BoundedProtocol
from mirl_server.observability.metrics import Metrics
from mirl_server.observability.request_metrics import RequestMetrics
from mirl_server.settings.limits import AdmissionSettings, HTTPSettings
from mirl_server.settings.server import ServerSettings
from tests.helpers.waiting import until
from tests.unit.server.apis.result_cases import CHAIN, RESULT
from tests.unit.server.harness import Build
from tests.unit.server.http.serving import connection, serving


def make(now: list[float], capacity: int = 100, **how: Any) -> Admission:
    settings = AdmissionSettings(
        max_running_sequences=capacity, **{"plain_share": 0.01, "max_queue": 0, **how}
    )
    return Admission(settings, clock=lambda: now[0])


async def served(admission: Admission, now: list[float], sequences: int, seconds: float) -> None:
    async with admission.admit("a", sequences):
        now[0] += seconds


async def refusal(admission: Admission, sequences: int, key: str = "a") -> BusyError:
    with pytest.raises(BusyError) as caught:
        async with admission.admit(key, sequences):
            pass
    return caught.value


@pytest.mark.parametrize(
    ("before", "seconds", "sequences", "wait"),
    [
        (20, 4.0, 30, 6.0),  # 5 a second
        (20, 4.0, 5, 1.0),
        (20, 4.0, 4, 1.0),  # never less than a second
        (50, 50.0, 59, 59.0),
        (50, 50.0, 60, 60.0),
        (50, 50.0, 61, 60.0),  # never more than a minute
        (1, 40.0, 99, 60.0),
        (30, 0.5, 90, 3.0),  # a rate is taken from a second at least
    ],
)
async def test_the_wait_by_what_was_served(before: int, seconds: float, sequences: int, wait: float) -> None:
    now = [0.0]
    admission = make(now)
    await served(admission, now, before, seconds)
    async with admission.admit("b", 99):
        error = await refusal(admission, sequences)
    assert error.retry_after == pytest.approx(wait, rel=1e-9)
    assert str(error) == f"too many requests are waiting; try again in {wait:.0f} s"


async def test_without_any_service_yet_the_wait_is_a_guess() -> None:
    now = [0.0]
    admission = make(now)
    async with admission.admit("b", 99):
        error = await refusal(admission, 2)
    assert (error.retry_after, str(error)) == (5.0, "too many requests are waiting; try again in 5 s")


async def test_service_is_forgotten_after_a_minute_of_work() -> None:
    now = [0.0]
    admission = make(now)
    await served(admission, now, 40, 20.0)
    await served(admission, now, 10, 60.0)
    # The 40 ended 60 s of work ago, which is as far back as is looked.
    async with admission.admit("b", 99):
        assert (await refusal(admission, 25)).retry_after == pytest.approx(25 / (50 / 60))
    await served(admission, now, 5, 0.5)
    async with admission.admit("b", 99):
        assert (await refusal(admission, 3)).retry_after == pytest.approx(3 / ((99 + 15) / 60), rel=0.5)


async def test_a_keys_own_line_moves_at_its_share() -> None:
    now = [0.0]
    admission = make(now, max_queue=3)
    await served(admission, now, 60, 60.0)  # one a second
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        await stack.enter_async_context(admission.admit("b", 99))
        waiting = [
            group.create_task(admission.admit(key, sequences).__aenter__())
            for key, sequences in (("a", 6), ("b", 20), ("b", 2))
        ]
        await until(lambda: admission.queued("gated") == 3)
        assert admission.queued_by_key("gated") == {"a": 1, "b": 2}
        assert admission.queued_sequences("gated") == 28
        # `b` has the longest line: twice its own 22, but no more than all 28, and then itself.
        assert (await refusal(admission, 7, "b")).retry_after == pytest.approx(28 + 7)
        for one in waiting:
            one.cancel()


async def test_the_wait_is_told() -> None:
    now = [100.0]
    admission = make(now, 3, max_queue=9)

    async def wait() -> float:
        async with admission.admit("a", 2) as waited:
            return waited

    async with admission.admit("a", 2) as at_once:
        waiting = asyncio.create_task(wait())
        await until(lambda: admission.queued("gated") == 1)
        now[0] += 7.5
    assert (at_once, await waiting) == (0, 7.5)


async def test_draining_names_a_time() -> None:
    admission = make([0.0])
    admission.drain()
    with pytest.raises(DrainingError, match="the server is shutting down; send the request again") as caught:
        async with admission.admit("a", 1):
            pass
    assert caught.value.retry_after == 5


@pytest.mark.parametrize(
    ("settings", "sequences", "capacity", "shares"),
    [
        ({}, 512, 512, (384, 128)),
        ({"max_running_sequences": 10}, 512, 10, (8, 2)),
        ({"max_running_sequences": 2, "plain_share": 0.9}, 512, 2, (1, 1)),
        ({"plain_share": 0.01}, 10, 10, (9, 1)),
        ({}, 1, 2, (1, 1)),
    ],
)
def test_each_kinds_share(
    settings: dict[str, Any], sequences: int, capacity: int, shares: tuple[int, int]
) -> None:
    admission = Admission(AdmissionSettings(**settings), sequences)
    assert admission.capacity == capacity
    assert (admission._lanes["gated"].share, admission._lanes["plain"].share) == shares
    assert Admission().capacity == 512


@pytest.mark.parametrize(
    ("sequences", "tokens", "room"),
    [(7, 70, True), (8, 70, False), (7, 71, False), (1, 1, True), (0, 0, True), (999, 10**9, False)],
)
async def test_whether_there_is_room(sequences: int, tokens: int, room: bool) -> None:
    admission = make([0.0], 10, plain_share=0.2, max_running_tokens=100)
    async with admission.admit("a", 3, 30):
        assert admission.has_room(sequences, tokens, "gated") is room
        assert admission.running_tokens("gated") == 30
        assert admission.has_room(sequences, tokens, "plain")  # of which less is taken for all of its share
        admission.drain()
        assert not admission.has_room(1, 1, "gated")


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


async def test_how_long_a_stream_waits_for_its_next_event(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    real = asyncio.timeout

    def after(seconds: float | None) -> asyncio.Timeout:
        waits.append(seconds)
        return real(None if seconds is None else 0)

    monkeypatch.setattr("mirl_server.handling.streaming.asyncio.timeout", after)

    async def silent() -> AsyncGenerator[int, None]:
        await asyncio.Event().wait()
        yield 1

    events = EventReader(silent())
    with pytest.raises(Idle):
        await events.next(12.5)
    await events.close()
    assert waits == [12.5]
    assert ServerSettings.load().keep_alive == 10.0


def test_a_requests_seconds_are_measured_from_its_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mirl_server.observability.request_metrics.time.perf_counter", lambda: now[0])
    registry = CollectorRegistry()
    value = registry.get_sample_value
    tracker = RequestMetrics(Metrics(registry))
    tracker.event(ChoiceEvent(0, Started(11)))
    now[0] = 103.5
    tracker.event(ChoiceEvent(0, Decided(RESULT.vote, CHAIN, 1)))
    assert value("mirl_request_seconds_count") == 0
    now[0] = 107.25
    tracker.event(ChoiceEvent(0, Finished(RESULT), (RESULT,)))
    tracker.close()
    tracker.close()
    assert value("mirl_decision_seconds_sum") == 3.5
    assert value("mirl_request_seconds_sum") == 7.25
    assert value("mirl_requests_total", {"outcome": "answered"}) == 1
    assert value("mirl_requests_in_flight") == 0
    stages = {one: value("mirl_stage_seconds_sum", {"stage": one}) for one in ("describe", "score", "fork")}
    assert stages == {"describe": 0.1, "score": 0.1, "fork": 0.0}
    assert value("mirl_tokens_total", {"stage": "render", "kind": "prompt"}) == 11
    assert value("mirl_tokens_total", {"stage": "score", "kind": "scored"}) == 4
