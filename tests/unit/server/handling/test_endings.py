"""How a request ends that is not simply answered: errors, deadlines, silence, clients that leave."""

from __future__ import annotations

import asyncio

import pytest

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import DeadlineError, EngineDeadError, EngineError, MIRLError, RequestError
from tests.helpers.waiting import until
from tests.unit.server.apis.api_cases import leaving
from tests.unit.server.harness import Build, Harness, events, question


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(RequestError("no", param="messages"), 400), (EngineError("no"), 500), (EngineDeadError("no"), 503)],
)
async def test_errors_before_the_first_event_have_their_status(
    build: Build, stream: bool, error: MIRLError, status: int
) -> None:
    harness = build(FakeEngine(fail_at={"render": error}))
    response = await harness.ask(stream=stream)
    assert response.status_code == status
    assert response.json()["error"]["message"] == "no"


@pytest.mark.parametrize("kind", ["describe", "score", "fork"])
async def test_errors_later_are_a_status_or_an_event(build: Build, kind: str) -> None:
    harness = build(FakeEngine(fail_at={kind: EngineError("the engine choked")}))
    response = await harness.ask()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
    streamed = events(await harness.ask(stream=True))
    assert streamed[-1]["error"]["message"] == "the engine choked"
    assert harness.engine.running == 0
    assert harness.metric("mirl_requests_total", outcome="failed") == 2
    assert harness.metric("mirl_requests_in_flight") == 0


async def test_a_deadline_with_nothing_to_return(build: Build) -> None:
    harness = build(FakeEngine([FakeText("a b c</description>", delay=30)]))
    response = await harness.ask(mirl={"timeout": 0.05})
    assert response.status_code == 504
    assert harness.metric("mirl_requests_total", outcome="deadline") == 1
    assert issubclass(DeadlineError, MIRLError)


async def test_unforeseen_errors_in_a_stream_say_nothing_of_the_inside(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.engine, "score", broken)
    response = await server.ask(stream=True)
    assert events(response)[-1]["error"]["type"] == "server_error"
    assert "secret" not in response.text


async def test_silence_is_bridged_by_comments(build: Build) -> None:
    harness = build(FakeEngine([FakeText("a</description>", delay=0.1)]), keep_alive=0.02)
    response = await harness.ask(stream=True)
    assert ": keep-alive\n\n" in response.text
    assert events(response)[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_the_engine(build: Build, stream: bool) -> None:
    harness = build(FakeEngine([FakeText("a b c</description>", delay=30)]))
    body = {"messages": [question()], "stream": stream, "mirl": {"descriptions": 3}}
    async with leaving(harness, "/v1/chat/completions", body) as sent:
        await until(lambda: harness.engine.running == 3)
        assert harness.metric("mirl_requests_in_flight") == 1
    assert harness.engine.running == 0
    assert harness.metric("mirl_requests_total", outcome="cancelled") == 1
    assert harness.metric("mirl_requests_in_flight") == 0
    assert bool(sent and sent[0]["status"] == 200) is stream


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_handler_frees_the_engine(build: Build, stream: bool) -> None:
    harness = build(FakeEngine([FakeText("a b c</description>", delay=30)]))
    request = asyncio.create_task(harness.ask(stream=stream))
    async with asyncio.timeout(5):
        await until(lambda: harness.engine.running > 0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert harness.engine.running == 0
