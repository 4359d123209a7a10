"""A server's life without vLLM: what is refused when, what is waited for, and how what is left ends."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import DrainingError, EngineDeadError
from mirl_core.pipeline.run import Pipeline
from mirl_server.handling import lifetime
from mirl_server.handling.lifetime import Lifetime, patience
from mirl_server.middleware.error_shapes import ErrorShapes
from mirl_server.middleware.in_flight import InFlight
from mirl_server.settings.server import ServerSettings
from tests.helpers.waiting import until
from tests.unit.server.harness import Build, Harness, events, question
from tests.unit.server.http.serving import serving

SLOW = FakeText("<think>so</think><answer>7</answer>", delay=30)


def living(harness: Harness, seconds: float = 30.0) -> Lifetime:
    """The harness's app with a life, and two routes of a backend's that take long."""
    life = Lifetime(seconds)
    harness.app.add_middleware(InFlight, life=life)
    harness.app.add_middleware(ErrorShapes)

    async def chunks() -> AsyncIterator[str]:
        yield "data: {}\n\n"
        await asyncio.sleep(30)

    async def long(request: Request) -> Response:
        if (await request.json()).get("stream"):
            return StreamingResponse(chunks(), media_type="text/event-stream")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return JSONResponse({"error": "Client disconnected"}, 400)  # as vLLM's handlers do
        return Response()

    for path in ("/v1/completions", "/v1/messages/long", "/v1/responses/long"):
        harness.app.add_api_route(path, long, methods=["POST"])
    return life


async def test_new_work_is_refused_from_that_moment_on_and_reading_is_not(server: Harness) -> None:
    drained: list[bool] = []
    life = living(server)
    life.drained = lambda: drained.append(life.draining)
    assert (await server.ask()).status_code == 200
    calls = len(server.engine.calls)
    life.stop()
    assert drained == [True]
    refused = await server.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    async with server.client() as client:
        message = await client.post("/v1/messages", json={})
        assert message.json()["error"]["type"] == "overloaded_error"
        assert (await client.get("/v1/models")).status_code == 200
    assert server.metric("mirl_failures_total", reason="draining") == 2
    assert len(server.engine.calls) == calls, "nothing of it reached the engine"


async def test_what_runs_is_waited_for(build: Build) -> None:
    harness = build(FakeEngine(["a</description>"], [FakeText("<answer>7</answer>", delay=0.05)]))
    life = living(harness)
    task = asyncio.create_task(harness.ask())
    await until(lambda: life.running == 1)
    over = asyncio.create_task(life.over())
    life.stop()
    assert not over.done()
    async with asyncio.timeout(5):
        assert (await task).status_code == 200
        await over
    assert life.running == 0


async def test_an_idle_server_ends_at_once(server: Harness) -> None:
    life = living(server)
    life.stop()
    async with asyncio.timeout(0.1):
        await life.over()
    assert not life.died


@pytest.mark.parametrize("stream", [False, True])
async def test_gated_requests_end_with_the_best_vote_when_time_is_up(build: Build, stream: bool) -> None:
    harness = build(
        FakeEngine(
            ["a seven</description>", "fog</description>"],
            lambda suffix, branch: "<answer>7</answer>" if "seven" in suffix else SLOW,
        )
    )
    life = living(harness, seconds=0.3)
    service = harness.service
    closable = Pipeline(harness.engine, service.engine_pipeline().settings, closing=life.closing)
    harness.app.state.mirl = dataclasses.replace(service, pipeline=closable)
    knobs = {"descriptions": 2, "keep": 2, "forks": 1, "early_stop": False}
    task = asyncio.create_task(harness.ask(stream=stream, mirl=knobs))
    await until(lambda: life.running == 1)
    life.stop()
    async with asyncio.timeout(1):
        await life.over()
        answer = await task
    assert answer.status_code == 200
    last = events(answer)[-1] if stream else answer.json()
    assert '"partial":true' in answer.text.replace(" ", ""), last
    assert harness.engine.running == 0


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/completions", "data: [DONE]\n\n"),
        ("/v1/messages/long", '"type":"overloaded_error"'),
        ("/v1/responses/long", '"type":"error"'),
    ],
)
async def test_what_is_left_is_cut_with_an_error(server: Harness, path: str, last: str) -> None:
    life = living(server, seconds=0.1)
    async with serving(server.app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        tasks = [asyncio.create_task(client.post(path, json={"stream": stream})) for stream in (False, True)]
        await until(lambda: life.running == 2)
        over = asyncio.create_task(life.over())
        life.stop()
        await until(life.closing.is_set)
        life.stop()  # these know nothing of closing: no need to wait for it
        async with asyncio.timeout(1):
            whole, stream = await asyncio.gather(*tasks)
            await over
    assert (whole.status_code, whole.headers["connection"]) == (503, "close")
    assert "shutting down" in whole.text
    assert stream.status_code == 200
    assert stream.text.startswith("data: {}\n\n")
    assert "shutting down" in stream.text
    assert last in stream.text


async def test_what_knows_nothing_of_closing_is_cut_by_itself(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "VOTE_SECONDS", 0.1)
    life = living(server, seconds=0.1)
    task = asyncio.create_task(_post(server, "/v1/completions"))
    await until(lambda: life.running == 1)
    life.stop()
    async with asyncio.timeout(15):  # of the 30 s that it would run
        await life.over()
        assert (await task).status_code == 503
    assert life.cutting


async def test_a_stopping_server_closes_web_sockets_at_once(server: Harness) -> None:
    life = Lifetime(30.0)
    life.stop()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    await InFlight(server.app, life)({"type": "websocket", "path": "/v1/realtime"}, receive, send)
    (closed,) = sent
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
    assert "shutting down" in closed["reason"]


async def test_a_second_signal_hurries(server: Harness) -> None:
    life = living(server)
    task = asyncio.create_task(_post(server, "/v1/completions"))
    await until(lambda: life.running == 1)
    over = asyncio.create_task(life.over())
    life.stop()
    await asyncio.sleep(0.1)
    assert not life.closing.is_set()
    began = time.monotonic()
    life.stop()
    await until(life.closing.is_set)
    life.stop()
    await over
    assert time.monotonic() - began < 15  # of the 30 s that a first signal alone would take
    assert (await task).status_code == 503


async def test_a_request_that_loses_its_engine_gets_an_error(server: Harness) -> None:
    life = living(server)
    dead = False
    life.engine_dead = lambda: dead

    async def lost(request: Request) -> Response:
        nonlocal dead
        dead = True
        if "stream" in request.query_params:
            return StreamingResponse(_breaking(), media_type="text/event-stream")
        return JSONResponse({"error": {"message": "see the stack trace above", "code": 500}}, 500)

    server.app.add_api_route("/lost", lost, methods=["POST"])
    over = asyncio.create_task(life.over())
    whole = await _post(server, "/lost")
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_dead")
    dead = False
    stream = await _post(server, "/lost?stream=1")
    assert '"code":"engine_dead"' in stream.text
    assert (await server.ask()).json()["error"]["code"] == "engine_dead"
    async with asyncio.timeout(3):
        await over
    assert life.died


async def test_an_engine_that_ends_with_the_server_has_not_died(server: Harness) -> None:
    life = living(server)
    life.stop()
    life.engine_dead = lambda: True
    await life.over()
    assert not life.note_death()
    assert isinstance(life.refusal(), DrainingError)


async def test_a_server_may_outlive_its_engine(server: Harness) -> None:
    life = living(server)
    life.outlives_engine = True
    life.engine_dead = lambda: True
    over = asyncio.create_task(life.over())
    await until(lambda: life.died)
    await asyncio.sleep(0.3)
    assert not over.done()
    assert isinstance(life.refusal(), EngineDeadError)
    life.stop()
    await over


async def test_failures_of_the_app_are_its_own_while_the_engine_lives(server: Harness) -> None:
    living(server)

    async def broken() -> Response:
        return JSONResponse({"mine": 1}, 500)

    server.app.add_api_route("/broken", broken, methods=["POST"])
    assert (await _post(server, "/broken")).json() == {"mine": 1}


def test_patience_is_ours_or_else_vllms() -> None:
    assert patience(ServerSettings(), 12) == 12
    assert patience(ServerSettings(shutdown_seconds=0), 12) == 0


async def _post(server: Harness, path: str) -> httpx.Response:
    async with server.client() as client:
        return await client.post(path, json={"messages": [question()]})


async def _breaking() -> AsyncIterator[str]:
    yield "data: {}\n\n"
    raise RuntimeError("the engine is gone")
