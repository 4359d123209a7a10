"""`n`: several voted answers to one request."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import openai
import pytest

from mirl_client import evidence
from mirl_core.engines.base import derive_seed
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineError
from tests.helpers.waiting import until
from tests.unit.server.harness import Build, Harness, client, events, question

MESSAGES: list[Any] = [question()]
SMALL = {"mirl": {"descriptions": 2, "keep": 1}}


def seeded(**how: Any) -> FakeEngine:
    """Answers by turns, so that choices differ."""
    return FakeEngine(
        [FakeText("a red seven</description>", logprobs=-0.5, marginal=-3)],
        ["<think>x</think><answer>7</answer>", "<think>y</think><answer>8</answer>"],
        **how,
    )


async def test_choices_come_in_order_with_their_evidence(build: Build) -> None:
    harness = build(seeded())
    completion = await client(harness).chat.completions.create(
        model="m", messages=MESSAGES, n=3, seed=5, extra_body=SMALL
    )
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    for choice in completion.choices:
        answer_evidence = evidence(completion, choice.index)
        assert answer_evidence is not None
        assert answer_evidence.vote is not None
        assert choice.message.content in answer_evidence.vote.counts
        assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == harness.engine.sampled_tokens
    single = await client(build(seeded())).chat.completions.create(
        model="m", messages=MESSAGES, extra_body=SMALL
    )
    assert single.usage is not None
    assert completion.usage.prompt_tokens == single.usage.prompt_tokens
    assert harness.metric("mirl_requests_total", outcome="answered") == 1
    assert harness.metric("mirl_request_seconds_count") == 1


async def test_the_conversation_is_rendered_once(server: Harness) -> None:
    await server.ask(n=4)
    with_image = [conversation for conversation in server.engine.rendered if conversation.images]
    assert len(with_image) == 1


async def test_each_answer_has_seeds_of_its_own_and_the_first_those_of_a_single_answer(build: Build) -> None:
    def seeds(harness: Harness) -> list[Any]:
        calls = [*harness.engine.of_kind("describe"), *harness.engine.of_kind("fork")]
        return [call.sampling.seed for call in calls if call.sampling]

    several, single, unseeded = build(), build(), build()
    await several.ask(n=3, seed=5)
    await single.ask(seed=5)
    await unseeded.ask(n=3)
    assert len(set(seeds(several))) == 6
    assert set(seeds(single)) < set(seeds(several))
    # Those of the pipeline itself, so that answers repeat from before there was an n.
    assert seeds(single)[0] == derive_seed(5, "describe")
    assert set(seeds(unseeded)) == {None}
    names = [call.request_id for call in several.engine.of_kind("describe")]
    assert len(set(names)) == 3


async def test_a_stream_names_each_choice_by_its_index(build: Build) -> None:
    harness = build(seeded())
    stream = await client(harness).chat.completions.create(
        model="m", messages=MESSAGES, n=3, stream=True, stream_options={"include_usage": True},
        extra_body=SMALL,
    )  # fmt: skip
    contents: Counter[int] = Counter()
    finished: list[int] = []
    chunks = [chunk async for chunk in stream]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        contents[choice.index] += bool(choice.delta.content)
        if choice.finish_reason:
            finished.append(choice.index)
            assert evidence(chunk) is not None
    assert contents == {0: 1, 1: 1, 2: 1}
    assert sorted(finished) == [0, 1, 2]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == harness.engine.sampled_tokens
    assert harness.metric("mirl_requests_total", outcome="answered") == 1


async def test_choices_run_side_by_side(build: Build) -> None:
    # The first answer takes its time; the others don't wait for it.
    texts = iter([FakeText("a b c d e f</description>", delay=0.02)])
    slow = FakeEngine(
        [FakeText("a</description>")],
        lambda suffix, j: next(texts, FakeText("<think>x</think><answer>7</answer>")),
    )
    order = []
    for chunk in events(await build(slow).ask(n=3, stream=True, mirl={"descriptions": 1, "forks": 1})):
        order += [choice["index"] for choice in chunk["choices"] if choice["finish_reason"]]
    assert order == [1, 2, 0]


@pytest.mark.parametrize(("n", "status"), [(1, 200), (3, 200), (4, 400), (0, 400), (-1, 400), ("two", 400)])
async def test_the_operator_limits_n(build: Build, n: Any, status: int) -> None:
    response = await build(limits={"max_choices": 3}).ask(n=n)
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["param"] == "n"


async def test_the_token_budget_is_the_requests(build: Build) -> None:
    chatty = FakeEngine(
        [FakeText("a " * 20 + "</description>")], [FakeText("<think>x</think><answer>" + "y " * 99)]
    )
    harness = build(chatty)
    mirl = {"descriptions": 1, "keep": 1, "forks": 1, "max_total_tokens": 400}
    answer = (await harness.ask(n=4, mirl=mirl)).json()
    assert answer["usage"]["completion_tokens"] <= 400
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    small = await harness.ask(n=4, mirl={**mirl, "max_total_tokens": 4})
    assert (small.status_code, small.json()["error"]["param"]) == (400, "mirl.max_total_tokens")


async def test_a_choice_that_fails_fails_all_and_frees_the_engine(build: Build) -> None:
    harness = build(FakeEngine([FakeText("a</description>")], fail_at={"fork": EngineError("no")}))
    with pytest.raises(openai.InternalServerError):
        await client(harness).chat.completions.create(model="m", messages=MESSAGES, n=3, extra_body=SMALL)
    assert harness.engine.running == 0
    assert "error" in events(await harness.ask(n=3, stream=True))[-1]
    assert harness.engine.running == 0
    assert harness.metric("mirl_requests_total", outcome="failed") == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_request_frees_all_of_it(build: Build, stream: bool) -> None:
    harness = build(FakeEngine([FakeText("a b c</description>", delay=30)]))
    request = asyncio.create_task(harness.ask(n=3, stream=stream))
    async with asyncio.timeout(5):
        await until(lambda: harness.engine.running == 6)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert harness.engine.running == 0
    assert harness.metric("mirl_requests_total", outcome="cancelled") == 1
