"""The client against the real routes on a fake engine: what it sends, and what it reads."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import httpx
import openai
import pytest

import mirl_client
from mirl_client import (
    Answer,
    AsyncMirl,
    ChainDone,
    Decided,
    Described,
    Event,
    Finished,
    Gated,
    NotMIRLError,
    Started,
    TextDelta,
)
from tests.unit.server.harness import Harness, make_harness, png

SMALL = {"descriptions": 2, "keep": 1}


def client_of(harness: Harness, **how: Any) -> AsyncMirl:
    """Return a client of the app; it raises what the app raises."""
    transport = httpx.ASGITransport(harness.app, raise_app_exceptions=True)
    http = httpx.AsyncClient(transport=transport)
    return AsyncMirl("http://test", max_retries=0, http_client=http, **how)


async def collect(client: AsyncMirl, **how: Any) -> list[Event]:
    return [event async for event in client.stream(png(), "which digit?", options=SMALL, seed=3, **how)]


async def test_an_answer_has_its_evidence_and_cost() -> None:
    harness = make_harness()
    async with client_of(harness) as client:
        answer = await client.ask([png(), png("blue")], "which digit?", options=SMALL, seed=3)
    assert (answer.text, answer.model, answer.finish_reason) == ("7", "m", "stop")
    assert answer.reasoning == "a red seven\n\nso"
    assert [(each.text, each.kept) for each in answer.descriptions] == [
        ("a red seven", True),
        ("a red one", False),
    ]
    assert answer.vote is not None
    assert (answer.vote.answer, answer.confidence, answer.calibrated) == ("7", 1.0, False)
    assert answer.uncalibrated is not None
    assert {each.answer for each in answer.chains} == {"7"}
    assert answer.evidence is not None
    stages = answer.evidence.stages
    assert answer.cost.stages == stages
    assert answer.cost.sampled_tokens == sum(stage.generated_tokens for stage in stages)
    assert answer.cost.scored_tokens == sum(stage.scored_tokens for stage in stages) > 0
    assert answer.cost.prompt_tokens > 0
    assert answer.as_json()["vote"] == answer.vote.model_dump()
    assert answer.as_json()["cost"]["stages"][0]["stage"] == "describe"
    assert [message["role"] for message in answer.messages] == ["user", "assistant"]
    assert [part["type"] for part in answer.messages[0]["content"]] == ["image_url", "image_url", "text"]


async def test_a_stream_has_the_stages_in_order_and_ends_with_the_same_answer() -> None:
    async with client_of(make_harness()) as client:
        events = await collect(client)
        answer = await client.ask(png(), "which digit?", options=SMALL, seed=3)
    kinds = [type(event) for event in events]
    assert kinds[:4] == [Started, Described, Described, Gated]
    assert kinds[-1] is Finished
    assert kinds.index(Decided) < kinds.index(TextDelta)
    assert {ChainDone, Decided, TextDelta} <= set(kinds[4:-1])
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert without_time(finished.answer) == without_time(answer)


def without_time(answer: Answer) -> dict[str, Any]:
    fields = answer.as_json()
    for cost in (fields["cost"], *fields["cost"]["stages"]):
        del cost["seconds"]
    return fields


async def test_closing_a_stream_cancels_the_request() -> None:
    harness = make_harness()
    async with client_of(harness) as client, aclosing(client.stream(png(), "which digit?")) as events:
        assert isinstance(await anext(events), Started)
    assert harness.engine.running == 0


async def test_a_follow_up_goes_to_the_plain_model_with_the_conversation() -> None:
    harness = make_harness()
    async with client_of(harness) as client:
        answer = await client.ask(png(), "which digit?", options=SMALL)
        with pytest.raises(NotMIRLError, match="has no choice"):
            await client.ask((), "and its colour?", history=answer.messages)
    (body,) = harness.handed
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1:] == [
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "and its colour?"},
    ]


async def test_descriptions_alone() -> None:
    async with client_of(make_harness()) as client:
        result = await client.describe(png(), "which digit?", options=SMALL, seed=3)
    assert [each.text for each in result.descriptions] == ["a red seven", "a red one"]
    assert [each.text for each in result.kept] == ["a red seven"]
    assert (result.model, result.mi_weight) == ("m", 1.0)
    assert result.cost.sampled_tokens == sum(each.tokens for each in result.descriptions)


async def test_scores_have_the_mi_of_every_token() -> None:
    async with client_of(make_harness(), model="m") as client:
        result = await client.score(
            png(), "which digit?", ["a red seven", "a red one"], options={"mi_weight": 1}
        )
        (alone,) = (await client.score(png(), "which digit?", "a red one")).scores
    assert [score.text for score in result.scores] == ["a red seven", "a red one"]
    for score in result.scores:
        assert score.token_mi is not None
        assert len(score.token_mi) == score.tokens
        assert sum(score.token_mi) == pytest.approx(score.mi)
        assert score.mi == pytest.approx(score.logprob - score.marginal)
    assert alone.text == "a red one"


async def test_errors_are_the_sdks() -> None:
    async with client_of(make_harness()) as client:
        with pytest.raises(openai.BadRequestError, match="kep"):
            await client.ask(png(), "?", options={"kep": 2})
        with pytest.raises(openai.APIStatusError):
            await client.score("data:image/png;base64,AAAA", "?", "a red one")
        with pytest.raises(ValueError, match="messages, n"):
            await client.ask(png(), "?", extra={"n": 2, "messages": []})
    async with client_of(make_harness(draining=True), model="m") as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.ask(png(), "?")
        assert (caught.value.status_code, caught.value.code) == (503, "draining")


async def test_options_and_extra_fields_reach_the_server() -> None:
    async with client_of(make_harness()) as client:
        answer = await client.ask(
            png(),
            "which digit?",
            preset="paper",
            options={"keep": 2, "descriptions": 2},
            extra={"temperature": 0.5},
        )
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await client.ask(png(), "?", extra={"temperature": -1})
    assert answer.evidence is not None
    assert answer.evidence.budget is not None
    assert (answer.evidence.budget.descriptions, answer.evidence.budget.keep) == (2, 2)


async def test_texts_without_a_tokenizer_have_no_tokens() -> None:
    # The harness has MIRL's routes only.
    async with client_of(make_harness()) as client:
        assert await client.tokens("a red seven") is None
        assert await client.models() == ["m", "m:direct", "lora"]


def test_every_public_name_is_documented() -> None:
    for name in mirl_client.__all__:
        if name in ("Event", "Picture"):
            continue  # aliases: the string below them is their documentation
        value = getattr(mirl_client, name)
        assert value.__doc__, name
        members = vars(value).items() if isinstance(value, type) else ()
        for member, function in members:
            if not member.startswith(("_", "model_")) and (
                callable(function) or isinstance(function, property)
            ):
                assert function.__doc__, f"{name}.{member}"
