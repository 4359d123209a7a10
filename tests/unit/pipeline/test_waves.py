"""Chains in waves: the best descriptions first, and no more than the vote needs."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.algorithm.gates import in_waves
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.pipeline.events import Branched, ChainDone, Decided, Event
from tests.unit.pipeline.pipeline_cases import chain, described, events_of, finished

# By MI: b (3), a (2), c (1), d (0.5 nats a token).
FOUR = [described("a", -1, -3), described("b", -1, -4), described("c", -1, -2), described("d", -1, -1.5)]
WAVES: dict[str, Any] = {"descriptions": 4, "keep": 4, "forks": 1, "waves": True, "wave": 2}


def answering(answers: dict[str, str | FakeText], **engine: Any) -> FakeEngine:
    def chain_of(suffix: str, number: int) -> str | FakeText:
        answer = answers[suffix.removeprefix("<description>")[0]]
        return answer if isinstance(answer, FakeText) else chain(answer)

    return FakeEngine(FOUR, chain_of, **engine)


def started(events: list[Event]) -> list[int]:
    return [event.chains for event in events if isinstance(event, Branched)]


def order(events: list[Event]) -> list[tuple[int | None, int]]:
    return [(e.chain.description, e.chain.fork) for e in events if isinstance(e, ChainDone)]


def test_first_forks_come_before_second_ones_and_the_best_description_first() -> None:
    scores = {0: 1.0, 1: 3.0, 2: None, 3: 3.0}
    order = [(1, 0), (3, 0), (0, 0), (2, 0), (1, 1), (3, 1), (0, 1), (2, 1)]
    for first in range(1, 8):
        assert in_waves(scores, 2, first) == [order[:first], order[first:]]
    assert in_waves(scores, 2, 8) == in_waves(scores, 2, 9) == [order]
    assert in_waves({}, 2, 3) == []


async def test_the_best_descriptions_reason_first() -> None:
    events = await events_of(answering({"a": "1", "b": "2", "c": "3", "d": "4"}), **WAVES)
    assert started(events) == [2, 2]
    assert sorted(order(events)[:2]) == [(0, 0), (1, 0)]
    result = finished(events)
    # A tie of four answers goes to the best description.
    assert (result.content, len(result.chains)) == ("2", 4)


async def test_the_second_wave_has_all_other_chains_in_a_call_for_each_description() -> None:
    engine = answering({"a": "1", "b": "2", "c": "3", "d": "4"})
    events = await events_of(engine, **(WAVES | {"forks": 3, "early_stop": False, "wave": 3}))
    assert started(events) == [3, 9]
    # b, a, c first; then two more of each of these and three of d.
    assert sorted(call.n for call in engine.of_kind("fork")) == [1, 1, 1, 2, 2, 2, 3]
    assert set(order(events)) == {(description, fork) for description in range(4) for fork in range(3)}


async def test_a_certain_vote_starts_no_further_wave() -> None:
    engine = answering({"a": "1", "b": "1", "c": "2", "d": "2"})
    events = await events_of(engine, **(WAVES | {"certainty": 0.85}))
    assert started(events) == [2]
    result = finished(events)
    assert (result.content, len(result.chains)) == ("1", 2)
    assert len(engine.of_kind("fork")) == 2
    assert result.completion_tokens == engine.sampled_tokens
    # Three agreeing votes are needed for more certainty, and two of eight decide nothing.
    more = await events_of(engine, **(WAVES | {"certainty": 0.9, "forks": 2}))
    assert started(more) == [2, 6]


async def test_a_vote_that_nothing_can_change_starts_none_either() -> None:
    # 2 of at most 3 votes agree.
    engine = answering({"a": "1", "b": "1", "c": "2", "d": "2"})
    events = await events_of(engine, **(WAVES | {"keep": 3, "certainty": 0.99}))
    assert started(events) == [2]
    (decided,) = [event for event in events if isinstance(event, Decided)]
    assert decided.outstanding == 0


async def test_what_still_runs_of_a_wave_is_aborted() -> None:
    endless = FakeText("<think>on and on", delay=999.0)
    engine = answering({"a": "1", "b": "1", "c": endless, "d": "1"})
    events = await events_of(engine, **(WAVES | {"wave": 4}))
    result = finished(events)
    assert result.content == "1"
    assert [c.finish_reason for c in result.chains if c.description == 2] == ["abort"]
    (decided,) = [event for event in events if isinstance(event, Decided)]
    # The first two agree, and the other two can't do more than draw level.
    assert decided.outstanding == 2
    assert engine.running == 0


@pytest.mark.parametrize("forks", [1, 3])
async def test_chains_are_those_that_all_at_once_would_be(forks: int) -> None:
    together = answering({"a": "1", "b": "2", "c": "3", "d": "4"})
    options = {**WAVES, "forks": forks, "early_stop": False, "certainty": 0.99}
    await events_of(together, **(options | {"waves": False}))
    apart = answering({"a": "1", "b": "2", "c": "3", "d": "4"})
    await events_of(apart, **options)

    def seeds(engine: FakeEngine) -> set[tuple[Any, ...]]:
        return {
            (call.suffixes, call.sampling.branch_seed(branch), call.sampling.max_tokens)
            for call in engine.of_kind("fork")
            if call.sampling
            for branch in range(call.n)
        }

    assert seeds(apart) == seeds(together)
    assert len(seeds(apart)) == 4 * forks


async def test_a_deadline_starts_no_further_wave() -> None:
    endless = FakeText("<think>on and on", delay=999.0)
    engine = answering({"a": "1", "b": endless, "c": "2", "d": "2"})
    result = finished(await events_of(engine, **WAVES, timeout=1.0))
    assert (result.partial, result.content, len(result.chains)) == (True, "1", 2)


async def test_prose_is_decided_by_the_best_description() -> None:
    prose = "The {} in the picture is sleeping on a sofa of some length."
    engine = answering({name: prose.format(name * 3) for name in "abcd"})
    events = await events_of(engine, **WAVES)
    assert started(events) == [2]
    assert finished(events).content == prose.format("bbb")
