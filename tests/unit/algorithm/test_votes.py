"""Votes of a chain, and the rule that stops at a likely winner."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from mirl_core.algorithm.aggregators import Pending
from mirl_core.algorithm.voting import certain, decided, probability_ahead, tally
from mirl_core.types import Chain


def chain(description: int, answer: str | None, votes: int = 1, finish: str = "stop") -> Chain:
    return Chain(description, 0, "", "", answer, 1, finish, votes=votes)  # type: ignore[arg-type]


@given(st.integers(0, 40), st.integers(0, 40))
def test_probability_is_that_of_the_beta_distribution(leading: int, second: int) -> None:
    assert probability_ahead(leading, second) == pytest.approx(beta.sf(0.5, leading + 1, second + 1))
    assert probability_ahead(leading, second) + probability_ahead(second, leading) == pytest.approx(1)


def test_probability_of_a_few_votes() -> None:
    assert probability_ahead(0, 0) == 0.5
    assert probability_ahead(2, 0) == 7 / 8
    assert probability_ahead(3, 0) == 15 / 16
    assert probability_ahead(4, 1) == 57 / 64


def test_a_chain_counts_with_all_its_votes() -> None:
    outcome = tally([chain(0, "4"), chain(1, "4"), chain(2, "5", votes=3)], "majority")
    assert outcome is not None
    assert outcome.vote is not None
    assert dict(outcome.vote.counts) == {"4": 2.0, "5": 3.0}
    assert (outcome.vote.answer, outcome.vote.share) == ("5", 0.6)
    weighted = tally([chain(0, "4", votes=9), chain(1, "5"), chain(2, "5")], "mi_weighted")
    assert weighted is not None
    assert weighted.vote is not None
    assert weighted.vote.answer == "5"


ANSWERS = st.sampled_from(["4", "5", "6", None])


@settings(max_examples=300)
@given(
    st.lists(st.tuples(ANSWERS, st.integers(1, 4)), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_decided_counts_the_votes_that_are_outstanding(
    ended: list[tuple[str | None, int]], outstanding: list[int]
) -> None:
    """True exactly where no way in which the rest ends changes the winner."""
    chains = [chain(index, answer, votes) for index, (answer, votes) in enumerate(ended)]
    pending = [Pending(len(chains) + index, 0, None, votes) for index, votes in enumerate(outstanding)]
    winners = set()
    for rest in itertools.product(["4", "5", "6", "7", None], repeat=len(pending)):
        more = [
            chain(entry.description or 0, answer, entry.votes)
            for entry, answer in zip(pending, rest, strict=True)
        ]
        outcome = tally([*chains, *more], "majority")
        winners.add(None if outcome is None else outcome.representative.answer)
    assert decided(chains, pending, "majority") == (len(winners) == 1 and None not in winners)


def test_certain_at_the_threshold() -> None:
    agreeing = [chain(0, "4", votes=2), chain(1, "4.0")]
    assert certain(agreeing, "auto", 15 / 16)
    assert not certain(agreeing, "auto", 15 / 16 + 1e-9)
    assert not certain([*agreeing, chain(2, "5")], "majority", 0.9)
    assert certain([*agreeing, chain(2, "5")], "majority", 13 / 16)
    # The second of several rivals doesn't matter.
    assert certain([*agreeing, chain(2, "5"), chain(3, "6")], "majority", 13 / 16)


def test_only_votes_are_certain() -> None:
    agreeing = [chain(index, "4") for index in range(9)]
    assert certain(agreeing, "majority", 0.9)
    assert not certain(agreeing, "best", 0.9)
    assert not certain(agreeing, "mi_weighted", 0.9)
    prose = [chain(index, "The dog in the picture is sleeping on a sofa.") for index in range(9)]
    assert not certain(prose, "auto", 0.9)
    assert certain(prose, "majority", 0.9)
    assert not certain([], "majority", 0.51)


def test_aborted_and_silent_chains_make_nothing_certain() -> None:
    agreeing = [chain(0, "4", votes=2), chain(1, "4")]
    silent = [replace(entry, finish_reason="abort") for entry in agreeing]
    assert not certain(silent, "majority", 0.6)
    assert not certain([chain(0, None, votes=16)], "majority", 0.6)
