"""Forced lengths: every trajectory has them, in the pipeline and in plain votes, gated and steered."""

from __future__ import annotations

import pytest
from PIL import Image

from mirl_core.config import MIRLOptions, ModelSettings, Tags
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineError
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, Result
from tests.benchmarks.latency.real_size.forced import ANSWERS, ForcedLengths, Lengths

LENGTHS = Lengths(description=20, chain=30, agreement=1.0, switches=1)
ENDLESS = FakeText("word " * 100, finish_reason="length")
QUESTION = Conversation(
    (
        {
            "role": "user",
            "content": [
                {"type": "image", "image": Image.new("RGB", (2, 2))},
                {"type": "text", "text": "How many?"},
            ],
        },
    )
)


def endless() -> FakeEngine:
    """Return an engine whose samples go on until the token limit, with all tokens at greedy drafts."""

    def likeliest(conversation: Conversation, ids: tuple[int, ...]) -> dict[int, float]:
        return {3: -0.1, 4: -5.0}

    engine = FakeEngine([ENDLESS], [ENDLESS], likeliest=likeliest)
    engine.encode("one two three four five")
    return engine


async def answered(options: MIRLOptions, lengths: Lengths = LENGTHS) -> Result:
    engine = ForcedLengths(endless(), Tags(), lengths)
    pipeline = Pipeline(engine, ModelSettings(instruction=""))
    sampling = Sampling(max_tokens=100, seed=1)
    async for event in pipeline.run(QUESTION, options, sampling, RequestContext("r")):
        last = event
    assert isinstance(last, Finished)
    return last.result


async def test_a_gated_request_has_the_lengths() -> None:
    result = await answered(MIRLOptions(descriptions=4, keep=2, forks=3, early_stop=False))
    assert [len(item.token_ids) for item in result.descriptions] == [20] * 4
    assert {item.reason for item in result.descriptions} == {None, "gate"}
    assert [chain.tokens for chain in result.chains] == [30] * 6
    assert {chain.answer for chain in result.chains} == {ANSWERS[0]}
    assert result.completion_tokens == 4 * 20 + 6 * 30


@pytest.mark.parametrize(("switches", "descriptions"), [(0, 1), (1, 2), (3, 2)])
async def test_decodes_have_the_lengths_and_the_switches(switches: int, descriptions: int) -> None:
    lengths = Lengths(20, 30, 1.0, switches)
    options = MIRLOptions.model_validate(
        {"contrast": (0, 0.5, 1), "descriptions": 0, "draft_tokens": 6, "early_stop": False}
    )
    result = await answered(options, lengths)
    assert [len(item.token_ids) for item in result.descriptions] == [20] * 3
    decodings = [item.decoding for item in result.descriptions if item.decoding]
    assert [len(decoding.switches) for decoding in decodings] == [0, switches, switches]
    step = 20 // (switches + 1)
    assert [switch.position for switch in decodings[1].switches] == [step * i for i in range(1, switches + 1)]
    assert len({item.text for item in result.descriptions}) == descriptions
    assert [chain.tokens for chain in result.chains] == [30] * descriptions


async def test_a_plain_sample_is_a_whole_trajectory() -> None:
    engine = ForcedLengths(endless(), Tags(), LENGTHS)
    rendered = await engine.render(QUESTION, RequestContext("r"))
    sampling = Sampling(max_tokens=100, stop=("</answer>",), seed=1)
    opening = engine.encode("<description>")
    samples = [
        sample async for sample in engine.generate(rendered, opening, 3, sampling, RequestContext("s"))
    ]
    assert {(len(sample.token_ids), sample.finish_reason) for sample in samples} == {(50, "stop")}
    assert all(sample.text.endswith(f"<answer>{ANSWERS[0]}</answer>") for sample in samples)
    assert all(len(engine.encode(sample.text.partition("</description>")[0])) == 19 for sample in samples)


async def test_the_share_of_agreeing_chains() -> None:
    engine = ForcedLengths(endless(), Tags(), Lengths(20, 30, 0.7, 0))
    rendered = await engine.render(QUESTION, RequestContext("r"))
    sampling = Sampling(max_tokens=100, stop=("</answer>",), seed=5)
    samples = [sample async for sample in engine.generate(rendered, (), 200, sampling, RequestContext("s"))]
    frequent = sum(sample.text.endswith(f"<answer>{ANSWERS[0]}</answer>") for sample in samples)
    assert 120 <= frequent <= 160
    assert {sample.text[-len("1</answer>")] for sample in samples} == set(ANSWERS)


async def test_a_shorter_limit_cuts_the_sample() -> None:
    engine = ForcedLengths(endless(), Tags(), LENGTHS)
    rendered = await engine.render(QUESTION, RequestContext("r"))
    sampling = Sampling(max_tokens=12, stop=("</description>",), seed=1)
    opening = engine.encode("<description>")
    (sample,) = [item async for item in engine.generate(rendered, opening, 1, sampling, RequestContext("s"))]
    assert (len(sample.token_ids), sample.finish_reason) == (12, "length")
    assert "</description>" not in sample.text


async def test_a_model_that_ends_its_turn_is_refused() -> None:
    engine = ForcedLengths(FakeEngine(["too short</description>"]), Tags(), LENGTHS)
    rendered = await engine.render(QUESTION, RequestContext("r"))
    sampling = Sampling(max_tokens=100, stop=("</description>",), seed=1)
    opening = engine.encode("<description>")
    with pytest.raises(EngineError, match="without an end-of-turn token"):
        async for _ in engine.generate(rendered, opening, 1, sampling, RequestContext("s")):
            pass


def test_lengths_must_hold_their_tags() -> None:
    with pytest.raises(ValueError, match="no room for its tags"):
        ForcedLengths(FakeEngine(), Tags(), Lengths(20, 3))
    with pytest.raises(ValueError, match="no room for its content"):
        ForcedLengths(FakeEngine(), Tags(), Lengths(1, 30))
