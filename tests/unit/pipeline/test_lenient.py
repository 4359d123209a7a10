"""Requests to models that were never trained on the format: repaired descriptions go through all stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.families import shipped
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Result
from tests.unit.pipeline.pipeline_cases import CONVERSATION, SETTINGS, chain, result_of

LENIENT = SETTINGS.model_copy(update={"lenient": True})
SCORED: dict[str, Any] = {"score": lambda conversation, suffix: [-2.0] * len(suffix)}


def forked(engine: FakeEngine) -> list[str]:
    """Return the text that each fork call continues."""
    return [engine.decode(call.suffixes[0]) for call in engine.calls if call.kind == "fork"]


def engine_of(*texts: str, chains: Sequence[str] = (chain("7"),)) -> FakeEngine:
    return FakeEngine([FakeText(text) for text in texts], chains, **SCORED)


@pytest.mark.parametrize(
    "text",
    [
        "a red seven</description>",
        "<description>a red seven</description>",
        "a red seven</Description>",
        "a red seven\n<think>",
        "a red seven\n\n<answer>",
        "a red seven",
    ],
)
async def test_a_broken_description_is_scored_and_forked(text: str) -> None:
    engine = engine_of(text)
    result = await result_of(engine, settings=LENIENT, descriptions=1, keep=1, forks=1)
    assert result.fallback is None
    assert result.representative.answer == "7"
    (description,) = result.descriptions
    assert (description.text, description.kept) == ("a red seven", True)
    assert description.mi is not None
    (suffix,) = forked(engine)
    assert suffix.endswith("a red seven</description>")
    # Only sampled tokens count: the added tag is none.
    sampled = len(engine.encode(text))
    assert result.completion_tokens <= sampled + len(engine.encode(chain("7"))) + 1


async def test_the_same_descriptions_of_a_trained_model_are_unusable() -> None:
    result = await result_of(engine_of("a red seven\n<think>"), descriptions=1, keep=1, forks=1)
    assert result.fallback is not None
    assert [description.reason for description in result.descriptions] == ["unparsable"]


async def test_a_lenient_describe_call_ends_at_every_tag() -> None:
    engine = engine_of("a red seven</description>")
    await result_of(engine, settings=LENIENT, descriptions=1, keep=1, forks=1)
    (describe,) = [call for call in engine.calls if call.kind == "describe"]
    assert describe.sampling is not None
    assert describe.sampling.stop == ("</description>", "<think>", "</think>", "<answer>", "</answer>")


async def test_words_as_tags_through_all_stages() -> None:
    engine = FakeEngine(
        [FakeText(" a red seven.\nReasoning:"), FakeText(" a red one.")],
        (" it is red.\nAnswer: 7", " so.\nAnswer: 7 ###"),
        tags=shipped("words").tags.description,
        **SCORED,
    )
    result: Result = await result_of(
        engine, settings=shipped("words"), descriptions=2, keep=2, forks=1, early_stop=False
    )
    assert result.representative.answer == "7"
    assert [description.text for description in result.descriptions] == ["a red seven.", "a red one."]
    assert all(
        suffix.startswith("Description:") and suffix.endswith("Reasoning:") for suffix in forked(engine)
    )
    prompt = next(call.conversation for call in engine.calls if call.kind == "render")
    assert prompt.messages[-1]["content"][-1]["text"].startswith("What is it?\n\nAnswer in three parts.")


async def test_a_thinking_models_chain_closes_what_the_template_opened() -> None:
    engine = engine_of(
        "a red seven</description>", chains=("\nIt is red, so 7.\n</think>\n\n<answer>7</answer>",)
    )
    result = await result_of(engine, settings=shipped("thinking"), descriptions=1, keep=1, forks=2)
    assert result.representative.answer == "7"
    assert result.representative.reasoning == "It is red, so 7."


async def test_the_prompt_of_a_family_is_rendered_once() -> None:
    engine = engine_of("a red seven</description>")
    settings = shipped("chat")
    pipeline = Pipeline(engine, settings)
    assert pipeline.settings.instruction
    await result_of(engine, settings=settings, descriptions=2, keep=2, forks=2, gate="confidence")
    renders = [call for call in engine.calls if call.kind == "render"]
    assert len(renders) == 1
    assert renders[0].conversation.images == CONVERSATION.images
