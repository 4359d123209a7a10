"""`logprobs`: the tokens of the returned chain's content."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mirl_core.engines.fake import FakeEngine, FakeText
from tests.unit.server.harness import Build, Harness, client, events, question

MESSAGES: list[Any] = [question()]
SMALL = {"mirl": {"descriptions": 1, "keep": 1, "forks": 1}}


def engine() -> FakeEngine:
    # <think> so </think> <answer> a| red| seven| </answer>
    chain = FakeText(
        "<think>so</think><answer>a red seven</answer>", logprobs=[-1, -2, -3, -4, -5, -6, -7, -8]
    )
    return FakeEngine([FakeText("a red seven</description>")], [chain])


@pytest.mark.parametrize("top", [None, 0, 2])
@pytest.mark.parametrize("stream", [False, True])
async def test_they_are_the_contents_tokens(build: Build, top: int | None, stream: bool) -> None:
    api = client(build(engine()))
    fields: Any = {"messages": MESSAGES, "logprobs": True, "extra_body": SMALL}
    if top is not None:
        fields["top_logprobs"] = top
    received = []
    if stream:
        async for chunk in await api.chat.completions.create(model="m", stream=True, **fields):
            for choice in chunk.choices:
                if choice.logprobs is not None:
                    assert choice.delta.content == "a red seven"
                    received.append(choice.logprobs)
    else:
        response = await api.chat.completions.create(model="m", **fields)
        received += [choice.logprobs for choice in response.choices if choice.logprobs]
    (logprobs,) = received
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == ["a", " red", " seven"]
    assert [token.logprob for token in logprobs.content] == [-5, -6, -7]
    assert [bytes(token.bytes or []) for token in logprobs.content] == [b"a", b" red", b" seven"]
    for token in logprobs.content:
        assert len(token.top_logprobs) == (top or 0)
        if top:
            assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (
                token.token,
                token.logprob,
            )
            assert token.top_logprobs[1].logprob == token.logprob - 1


async def test_rivals_are_requested_of_chains_alone(build: Build) -> None:
    harness = build(engine())
    await harness.ask(logprobs=True, top_logprobs=3, **SMALL)
    requested = {call.kind: call.sampling.top_logprobs for call in harness.engine.calls if call.sampling}
    assert requested == {"describe": None, "fork": 3}


async def test_none_unless_requested(server: Harness) -> None:
    for fields in ({}, {"logprobs": False}, {"logprobs": None, "top_logprobs": None}):
        assert (await server.ask(**fields)).json()["choices"][0]["logprobs"] is None
        streamed = events(await server.ask(stream=True, **fields))
        assert {chunk["choices"][0]["logprobs"] for chunk in streamed} == {None}


async def test_an_answer_that_was_cut_has_the_tokens_that_are_left(build: Build) -> None:
    choice = (await build(engine()).ask(logprobs=True, stop=[" seven"], **SMALL)).json()["choices"][0]
    assert choice["message"]["content"] == "a red"
    assert [token["token"] for token in choice["logprobs"]["content"]] == ["a", " red"]


async def test_without_an_answer_there_are_none(build: Build) -> None:
    unfinished = FakeEngine([FakeText("a</description>")], [FakeText("<think>so", finish_reason="length")])
    choice = (await build(unfinished).ask(logprobs=True, **SMALL)).json()["choices"][0]
    assert (choice["message"]["content"], choice["logprobs"]) == ("", {"content": [], "refusal": None})


async def test_infinity_is_a_number_in_json(build: Build) -> None:
    sure = FakeText("<answer>7</answer>", logprobs=float("-inf"))
    response = await build(FakeEngine([FakeText("a</description>")], [sure])).ask(logprobs=True, **SMALL)
    assert response.json()["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


async def test_each_choice_has_its_own(build: Build) -> None:
    answer = (await build(engine()).ask(logprobs=True, n=2, **SMALL)).json()
    assert [len(choice["logprobs"]["content"]) for choice in answer["choices"]] == [3, 3]


async def test_the_engines_own_limit_is_named(server: Harness) -> None:
    server.app.state.mirl = dataclasses.replace(server.service, max_top_logprobs=5)
    assert (await server.ask(logprobs=True, top_logprobs=5)).status_code == 200
    response = await server.ask(logprobs=True, top_logprobs=6)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "top_logprobs")
    assert "--max-logprobs 5" in response.json()["error"]["message"]
