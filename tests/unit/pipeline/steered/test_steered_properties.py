"""Whatever a steered request meets: tokens add up, bounds hold, and nothing runs on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.budget import fanout
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeText
from mirl_core.pipeline.events import Branched, ChainDone, Decided, Described, FellBack, Finished
from mirl_core.pipeline.run import Pipeline
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION
from tests.unit.pipeline.steered.steered_cases import TinyModel

MAX_TOKENS = 40
samples = st.lists(
    st.sampled_from(
        [
            "a cat</description>",
            "a dog</description>",
            "</description>",
            "no end",
            "a <think> tag</description>",
        ]
    ),
    min_size=1,
    max_size=4,
)
models = st.builds(
    dict,
    seed=st.integers(0, 10**6),
    sharpness=st.sampled_from([0.3, 1.5]),
    samples=samples,
    eos=st.booleans(),
)


@st.composite
def options(draw: Any) -> MIRLOptions:
    weights = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=3))
    votes = draw(st.one_of(st.just(()), st.tuples(*(st.integers(1, 3) for _ in weights))))
    return MIRLOptions(
        contrast=tuple(weights),
        prior_votes=votes,
        descriptions=draw(st.integers(0, 5)),
        wave=draw(st.integers(1, 3)),
        ahead=draw(st.integers(0, 3)),
        certainty=draw(st.sampled_from([0.6, 0.9, 0.99])),
        draft_tokens=draw(st.sampled_from([1, 3, 8])),
        lookahead=draw(st.sampled_from([1, 4, 30])),
        plausibility=draw(st.sampled_from([0.05, 0.5])),
        share_chains=draw(st.booleans()),
        early_stop=draw(st.booleans()),
        aggregate=draw(st.sampled_from(["auto", "majority", "mi_weighted", "best"])),
        mi_weight=draw(st.sampled_from([0.0, 1.0, "auto"])),
        description_tokens=draw(st.sampled_from([2, 20])),
        # The least that any of these options needs.
        max_total_tokens=draw(st.sampled_from([None, 34, 300])),
        token_mi=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None)
@given(models, options())
def test_every_token_is_counted_and_every_bound_holds(made: dict[str, Any], chosen: MIRLOptions) -> None:
    model = TinyModel(**made, plain=["<answer>plain</answer>"])
    bounds = fanout(chosen, MAX_TOKENS)

    async def run() -> list[object]:
        pipeline = Pipeline(model.engine, ModelSettings(instruction=""))
        return [e async for e in pipeline.run(CONVERSATION, chosen, Sampling(MAX_TOKENS), CONTEXT)]

    events = asyncio.run(run())
    finished = [event for event in events if isinstance(event, Finished)]
    assert finished == events[-1:]
    result = finished[0].result
    assert result.completion_tokens == model.engine.sampled_tokens
    assert model.engine.running == 0
    fell_back = any(isinstance(event, FellBack) for event in events)
    plain = MAX_TOKENS if fell_back else 0
    assert result.completion_tokens <= bounds.tokens + plain
    assert len(result.descriptions) <= chosen.most_descriptions
    assert [d.index for d in result.descriptions] == list(range(len(result.descriptions)))
    started = [event for event in events if isinstance(event, Branched)]
    assert sum(event.descriptions for event in started) == len(result.descriptions)
    ended = [
        event.chain
        for event in events
        if isinstance(event, ChainDone) and event.chain.description is not None
    ]
    assert sum(event.chains for event in started) == len(ended)
    assert len(ended) <= bounds.chains
    if not fell_back:
        assert [(c.description, c.fork) for c in result.chains] == [(c.description, c.fork) for c in ended]
    decided = next((event for event in events if isinstance(event, Decided)), None)
    if decided is not None:
        assert decided.representative.answer == result.content
        assert decided.vote == result.vote
        assert not any(isinstance(event, Described) for event in events[events.index(decided) :])
    for description in result.descriptions:
        assert description.kept == (description.reason is None)
        if chosen.token_mi and description.kept:
            assert description.token_mi is not None
    complete = decided is not None and decided.outstanding == 0
    if complete and result.vote is not None and result.aggregation == "majority" and not fell_back:
        voters = [c for c in result.chains if c.answer is not None and c.finished]
        assert sum(result.vote.counts.values()) == sum(c.votes for c in voters)


@settings(max_examples=60, deadline=None)
@given(models, options(), st.integers(0, 14))
def test_nothing_runs_after_the_generator_is_closed(
    made: dict[str, Any], chosen: MIRLOptions, leave_after: int
) -> None:
    model = TinyModel(**made, chains={}, plain=[FakeText("<answer>plain</answer>")])
    chosen = chosen.model_copy(update={"max_total_tokens": None})

    async def run() -> None:
        pipeline = Pipeline(model.engine, ModelSettings(instruction=""))
        async with aclosing(pipeline.run(CONVERSATION, chosen, Sampling(MAX_TOKENS), CONTEXT)) as events:
            seen = 0
            async for _ in events:
                seen += 1
                if seen > leave_after:
                    break
        assert model.engine.running == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
