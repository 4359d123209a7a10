"""Routes under admission: who waits, what is refused, and when a turn ends."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mirl_core.algorithm.budget import fanout
from mirl_core.config import MIRLOptions
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.pipeline.run import Pipeline
from mirl_server.access.authentication import Caller
from mirl_server.access.quotas import Quotas
from mirl_server.handling.admission import Admission
from mirl_server.middleware.stack import install_middleware, watch_load
from mirl_server.settings.limits import AdmissionSettings
from mirl_server.settings.server import ServerSettings
from tests.helpers.waiting import until
from tests.unit.server.apis.api_cases import BODIES, post
from tests.unit.server.handling.admission.admission_cases import admitted, idle
from tests.unit.server.harness import Build, Harness, events, question

KEY = "0123456789abcdef-key"
SLOW = [FakeText("a b c</description>", delay=0.05)]


def most(options: MIRLOptions, max_tokens: int, **how: Any) -> tuple[int, int]:
    """Return the most sequences and tokens that a request may sample."""
    bounds = fanout(options, max_tokens, **how)
    return bounds.sequences, bounds.tokens


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (22, 10 * 128 + 12 * 1000)),
        ({"gate": "none", "forks": 3}, (40, 10 * 128 + 30 * 1000)),
        ({"descriptions": 2, "keep": 6, "forks": 1}, (4, 2 * 128 + 2 * 1000)),
        ({"max_total_tokens": 500}, (22, 500)),
        ({"description_tokens": 5000}, (22, 22 * 1000)),
    ],
)
def test_what_a_request_counts_for(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert most(MIRLOptions(**options), 1000) == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gated_request_holds_its_fan_out_to_its_end(build: Build, stream: bool) -> None:
    harness = build(FakeEngine(SLOW))
    admission = admitted(harness)
    task = asyncio.create_task(harness.ask(stream=stream, mirl={"descriptions": 3, "keep": 2, "forks": 4}))
    await until(lambda: harness.engine.running > 0)
    assert admission.running("gated") == 11
    assert admission.running("plain") == 0
    assert (await task).status_code == 200
    assert idle(admission)


@pytest.mark.parametrize("stream", [False, True])
async def test_no_room_is_a_429_with_a_time(build: Build, stream: bool) -> None:
    harness = build(FakeEngine(SLOW))
    admission = admitted(harness, max_running_sequences=4, max_queue=0)
    first = asyncio.create_task(harness.ask(stream=stream))
    await until(lambda: harness.engine.running > 0)
    refused = await harness.ask(stream=stream)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert harness.metric("mirl_requests_total", outcome="refused") == 1
    assert (
        await harness.ask({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    ).status_code == 200
    assert (await first).status_code == 200
    assert idle(admission)


async def test_requests_take_turns(build: Build) -> None:
    harness = build(FakeEngine(SLOW))
    admitted(harness, max_running_sequences=4)
    answers = await asyncio.gather(*(harness.ask() for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert harness.engine.running == 0


async def test_a_full_line_refuses_before_images_are_decoded(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = build(FakeEngine(SLOW))
    admission = admitted(harness, max_running_sequences=4, max_queue=1)
    tasks = [asyncio.create_task(harness.ask()) for _ in range(2)]
    await until(lambda: admission.queued("gated") == 1)
    decoded: list[Any] = []
    monkeypatch.setattr("mirl_server.handling.gated.read_conversation", lambda *what: decoded.append(what))
    assert (await harness.ask()).status_code == 429
    assert not decoded
    await asyncio.gather(*tasks)


async def test_a_timeout_ends_the_wait(build: Build) -> None:
    harness = build(FakeEngine([FakeText("a</description>", delay=60)]))
    admission = admitted(harness, max_running_sequences=4)
    first = asyncio.create_task(harness.ask())
    await until(lambda: admission.running("gated") > 0)
    async with asyncio.timeout(10):  # the operator's own limit is 45 s
        late = await harness.ask(mirl={"timeout": 0.05})
    assert (late.status_code, late.json()["error"]["code"]) == (429, "overloaded")
    assert not first.done()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert idle(admission)


@pytest.mark.parametrize(
    ("limit", "waited", "left"),
    [(20.0, 7.5, 12.5), (20.0, 20.0, 0.001), (20.0, 0.0, 20.0), (None, 7.5, None)],
)
async def test_the_wait_counts_in_the_timeout(
    build: Build, monkeypatch: pytest.MonkeyPatch, limit: float | None, waited: float, left: float | None
) -> None:
    """The turn comes after `waited` seconds, and the pipeline has the rest."""
    harness = build(FakeEngine(SLOW))
    clock, timeouts = [0.0], []
    admission = Admission(AdmissionSettings(max_running_sequences=4), clock=lambda: clock[0])
    service = harness.app.state.mirl = dataclasses.replace(harness.service, admission=admission)
    run = Pipeline.run

    def watched(pipeline: Pipeline, conversation: Any, options: MIRLOptions, *what: Any, **more: Any) -> Any:
        timeouts.append(options.timeout)
        return run(pipeline, conversation, options, *what, **more)

    monkeypatch.setattr(Pipeline, "run", watched)
    async with service.admit(Caller(), 3):
        task = asyncio.create_task(harness.ask(mirl={"descriptions": 2, "keep": 1, "timeout": limit}))
        await until(lambda: admission.queued("gated") == 1)
        assert timeouts == []
        clock[0] = waited
    await task
    assert timeouts == [left]
    assert harness.metric("mirl_queue_seconds_sum") == waited


@pytest.mark.parametrize("image", [False, True])
async def test_draining_is_a_503(build: Build, image: bool) -> None:
    harness = build(draining=True)
    content = question() if image else {"role": "user", "content": "hi"}
    response = await harness.ask({"model": "m", "messages": [content]})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
    assert response.headers["retry-after"] == "5"
    assert not harness.handed


@pytest.mark.parametrize("name", ["m", "m:direct"])
async def test_a_plain_stream_holds_its_turn_to_the_end(server: Harness, name: str) -> None:
    admission = admitted(server)
    go, gone = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[str]:
        try:
            yield 'data: {"model":"m"}\n\n'
            await go.wait()
            yield "data: [DONE]\n\n"
        finally:
            gone.set()

    async def delegate(body: dict[str, Any], request: Request) -> Response:
        return StreamingResponse(chunks(), media_type="text/event-stream")

    server.app.state.mirl = dataclasses.replace(server.service, delegate=delegate)
    body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "n": 3, "stream": True}
    task = asyncio.create_task(server.ask(body))
    await until(lambda: admission.running("plain") == 3)
    await asyncio.sleep(0.02)
    assert admission.running("plain") == 3
    go.set()
    response = await task
    assert events(response) == [{"model": name}]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert idle(admission)
    go.clear()
    task = asyncio.create_task(server.ask(body))
    await until(lambda: admission.running("plain") == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert idle(admission)


@pytest.mark.parametrize("n", [0, -3, True, "x", 10**12, None])
async def test_an_odd_n_is_the_backends_to_refuse(server: Harness, n: object) -> None:
    admission = admitted(server)
    assert (await server.ask({"model": "m", "messages": [], "n": n})).status_code == 200
    assert idle(admission)


async def test_a_plain_request_that_waits_and_leaves(server: Harness) -> None:
    admission = admitted(server, max_running_sequences=2)
    go = asyncio.Event()

    async def delegate(body: dict[str, Any], request: Request) -> Response:
        await go.wait()
        return JSONResponse({})

    server.app.state.mirl = dataclasses.replace(server.service, delegate=delegate)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}
    tasks = [asyncio.create_task(server.ask(body)) for _ in range(4)]
    await until(lambda: admission.queued("plain") == 2)
    tasks[3].cancel()
    await until(lambda: admission.queued("plain") == 1)
    go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(answer, "status_code", None) for answer in answers] == [200, 200, 200, None]
    assert idle(admission)


async def test_describing_counts_no_chains(build: Build) -> None:
    assert most(MIRLOptions(), 1000, forks=False) == (10, 10 * 128)
    harness = build(FakeEngine(SLOW))
    admission = admitted(harness)
    body = {"messages": [question()], "mirl": {"descriptions": 3, "keep": 2, "forks": 4}}
    task = asyncio.create_task(post(harness, "/v1/mirl/describe", body))
    await until(lambda: harness.engine.running > 0)
    assert admission.running("gated") == 3
    assert (await task).status_code == 200
    assert idle(admission)


async def test_scoring_is_admitted(server: Harness) -> None:
    admission = admitted(server)
    seen: list[int] = []
    real = server.engine.score

    async def score(*what: Any) -> Any:
        seen.append(admission.running("gated"))
        return await real(*what)

    server.engine.score = score  # type: ignore[method-assign]
    async with server.client() as client:
        body = {"messages": [question()], "descriptions": ["a red seven", "a red one"]}
        assert (await client.post("/v1/mirl/score", json=body)).status_code == 200
    assert seen
    assert set(seen) == {4}
    assert idle(admission)


async def test_several_answers_count_for_all_of_them(build: Build) -> None:
    assert most(MIRLOptions(), 1000, answers=2) == (44, 2 * (10 * 128 + 12 * 1000))
    assert most(MIRLOptions(max_total_tokens=500), 1000, answers=2) == (44, 500)
    harness = build(FakeEngine(SLOW))
    admission = admitted(harness)
    task = asyncio.create_task(harness.ask(n=2, mirl={"descriptions": 3, "keep": 2, "forks": 4}))
    await until(lambda: harness.engine.running > 0)
    assert admission.running("gated") == 22
    assert (await task).status_code == 200
    assert idle(admission)


@pytest.mark.parametrize("path", [*BODIES, "/v1/mirl/describe"])
async def test_every_api_is_admitted(build: Build, path: str) -> None:
    harness = build(FakeEngine(SLOW))
    admission = admitted(harness, max_running_sequences=4, max_queue=0)
    first = asyncio.create_task(harness.ask())
    await until(lambda: harness.engine.running > 0)
    body = BODIES[path]() if path in BODIES else {"model": "m", "messages": [question()]}
    refused = await post(harness, path, body)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert (await first).status_code == 200
    assert harness.metric("mirl_refusals_total", reason="overloaded") == 1
    assert idle(admission)


async def test_the_load_is_in_the_metrics(build: Build) -> None:
    harness = build(FakeEngine(SLOW))
    admission, quotas = admitted(harness, max_running_sequences=12), Quotas()
    watch_load(harness.service.metrics, admission, quotas)
    tasks = [asyncio.create_task(harness.ask(mirl={"descriptions": 3, "keep": 2, "forks": 3})) for _ in "ab"]
    await until(lambda: admission.queued("gated") == 1)
    metric = harness.metric
    assert (metric("mirl_queue_requests"), metric("mirl_queue_sequences")) == (1, 9)
    assert (metric("mirl_admitted_sequences"), metric("mirl_admission_limit_sequences")) == (9, 12)
    longest = harness.engine.max_model_len
    assert metric("mirl_admitted_tokens") == 3 * 128 + 6 * longest
    assert metric("mirl_admission_limit_tokens") == math.inf
    await asyncio.gather(*tasks)
    assert metric("mirl_queue_requests") == metric("mirl_admitted_sequences") == 0
    assert metric("mirl_queue_seconds_count") == 2


@pytest.mark.parametrize(
    ("limits", "key", "code"),
    [
        ({"requests_per_minute": 1}, KEY, "rate_limit_exceeded"),
        ({"tokens_per_minute": 1}, KEY, "rate_limit_exceeded"),
        ({"concurrent": 1}, KEY, "rate_limit_exceeded"),
        ({}, "nobodys", "invalid_api_key"),
    ],
)
async def test_what_the_guard_refuses_is_in_the_metrics(
    build: Build, limits: dict[str, int], key: str, code: str
) -> None:
    harness = build(FakeEngine(SLOW))
    text = json.dumps({"team": {"key": KEY, **limits}})
    quotas = install_middleware(harness.app, ServerSettings.load(access={"keys": text})).quotas
    watch_load(harness.service.metrics, harness.service.admission, quotas)
    body = {"messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
    path = "/v1/chat/completions"
    first = asyncio.create_task(post(harness, path, body, **{"x-api-key": KEY}))
    await until(lambda: harness.engine.running > 0)
    if "concurrent" not in limits:
        await first
    refused = await post(harness, path, body, **{"x-api-key": key})
    assert refused.json()["error"]["code"] == code
    assert (await first).status_code == 200
    codes = ("invalid_api_key", "rate_limit_exceeded", "overloaded")
    counts = {reason: harness.metric("mirl_refusals_total", reason=reason) for reason in codes}
    assert counts == {reason: float(reason == code) for reason in codes}
