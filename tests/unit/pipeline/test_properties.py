"""Whatever the engine says and whenever the reader leaves: tokens add up and nothing runs on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION, SETTINGS

words = st.lists(st.sampled_from(["red", "blue", "3", "cat", "left"]), max_size=6).map(" ".join)
endings = st.sampled_from(["</description>", "", "<think>"])
descriptions = st.lists(
    st.builds(
        FakeText,
        st.builds(lambda text, end: text + end, words, endings),
        st.floats(-5, 0),
        st.floats(-5, 0),
        st.sampled_from(["stop", "length"]),
    ),
    min_size=1,
    max_size=6,
)
answers = st.sampled_from(
    ["1", "2", "yes", "", "a sentence of some length that nobody would call an answer."]
)
chains = st.lists(
    st.builds(
        FakeText,
        st.one_of(
            st.builds(lambda answer: f"<think>so</think><answer>{answer}</answer>", answers),
            st.just("<think>round and"),
        ),
        delay=st.sampled_from([0.0, 0.001]),
    ),
    min_size=1,
    max_size=8,
)
options = st.builds(
    MIRLOptions,
    descriptions=st.integers(1, 6),
    keep=st.integers(1, 6),
    forks=st.integers(1, 3),
    gate=st.sampled_from(["mi", "confidence", "random", "none"]),
    aggregate=st.sampled_from(["auto", "majority", "mi_weighted", "best"]),
    early_stop=st.booleans(),
    distinct=st.booleans(),
    normalize=st.sampled_from(["token", "sum"]),
    adaptive_keep=st.one_of(st.none(), st.floats(0.1, 1.0)),
    mi_weight=st.sampled_from([0.0, 0.5, 1.0, "auto"]),
    fork_image=st.sampled_from(["keep", "drop"]),
    waves=st.booleans(),
    wave=st.integers(1, 4),
    certainty=st.sampled_from([0.6, 0.9]),
)


@settings(max_examples=150, deadline=None)
@given(descriptions, chains, options)
def test_every_sampled_token_is_counted_once_and_finished_is_last(
    described: list[FakeText], chained: list[FakeText], chosen: MIRLOptions
) -> None:
    engine = FakeEngine(described, chained)

    async def run() -> list[object]:
        pipeline = Pipeline(engine, SETTINGS)
        return [e async for e in pipeline.run(CONVERSATION, chosen, Sampling(max_tokens=40), CONTEXT)]

    events = asyncio.run(run())
    finished = [event for event in events if isinstance(event, Finished)]
    assert finished == events[-1:]
    result = finished[0].result
    assert result.completion_tokens == engine.sampled_tokens
    assert engine.running == 0
    sampled = sum(stage.sequences for stage in result.stages if stage.stage != "score")
    assert sampled == sum(call.n for call in engine.calls)
    assert len(result.descriptions) == chosen.descriptions
    assert (result.mi_weight is None) == all(description.mi is None for description in result.descriptions)
    if result.content:
        assert result.content == result.representative.answer
        assert result.content in result.representative.text


@settings(max_examples=100, deadline=None)
@given(descriptions, chains, options, st.integers(0, 12))
def test_nothing_runs_after_the_generator_is_closed(
    described: list[FakeText], chained: list[FakeText], chosen: MIRLOptions, leave_after: int
) -> None:
    engine = FakeEngine(described, chained)

    async def run() -> None:
        pipeline = Pipeline(engine, SETTINGS)
        async with aclosing(pipeline.run(CONVERSATION, chosen, Sampling(max_tokens=40), CONTEXT)) as events:
            seen = 0
            async for _ in events:
                seen += 1
                if seen > leave_after:
                    break
        assert engine.running == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
