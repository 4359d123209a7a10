"""Selection: every fate of a description, the ranking, and what the options change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.gates import GATES, mass_prefix, select
from mirl_core.config import GateName, MIRLOptions
from mirl_core.types import Description


def description(
    index: int,
    mi: float | None = 0.0,
    *,
    logprob: float = -1.0,
    tokens: tuple[int, ...] | None = None,
    content: int = 2,
    reason: str | None = None,
) -> Description:
    ids = tokens or (index, 100 + index, 7)
    return Description(index, f"d{index}", ids, content, logprob, mi=mi, reason=reason)


def kept(descriptions: tuple[Description, ...]) -> list[int]:
    return [candidate.index for candidate in descriptions if candidate.kept]


def test_every_gate_the_settings_name_exists() -> None:
    assert set(GATES) == set(get_args(GateName))
    assert [name for name, gate in GATES.items() if gate.needs_marginal] == ["mi"]


def test_mi_keeps_the_best_in_their_original_order_and_says_why_not() -> None:
    descriptions = [description(0, 1.0), description(1, 5.0), description(2, 3.0), description(3, 4.0)]
    chosen = select(descriptions, MIRLOptions(keep=2), None)
    assert [(candidate.index, candidate.score, candidate.kept, candidate.reason) for candidate in chosen] == [
        (0, 0.5, False, "gate"),
        (1, 2.5, True, None),
        (2, 1.5, False, "gate"),
        (3, 2.0, True, None),
    ]


def test_per_token_and_plain_sum_rank_differently() -> None:
    short, long = description(0, 4.0, content=2), description(1, 6.0, content=6)
    assert kept(select([short, long], MIRLOptions(keep=1), None)) == [0]
    chosen = select([short, long], MIRLOptions(keep=1, normalize="sum"), None)
    assert kept(chosen) == [1]
    assert [candidate.score for candidate in chosen] == [4.0, 6.0]


def test_confidence_ranks_by_logprob_and_needs_no_mi() -> None:
    descriptions = [description(0, None, logprob=-4.0), description(1, None, logprob=-1.0)]
    chosen = select(descriptions, MIRLOptions(gate="confidence", keep=1), None)
    assert [candidate.score for candidate in chosen] == [-2.0, -0.5]
    assert kept(chosen) == [1]


def test_mi_without_a_score_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="description 3 was not scored"):
        select([description(3, None)], MIRLOptions(), None)


def test_ties_go_to_the_earlier() -> None:
    assert kept(select([description(i, 1.0) for i in range(4)], MIRLOptions(keep=2), None)) == [0, 1]


@pytest.mark.parametrize("gate", get_args(GateName))
@pytest.mark.parametrize("reason", ["truncated", "empty", "unparsable"])
def test_unusable_is_never_scored_and_never_kept(gate: GateName, reason: str) -> None:
    unusable = description(0, None, reason=reason)
    chosen = select([unusable, description(1, 1.0)], MIRLOptions(gate=gate), 1)
    assert chosen[0] == unusable
    assert kept(chosen) == [1]


@pytest.mark.parametrize("gate", get_args(GateName))
def test_nothing_usable_keeps_nothing(gate: GateName) -> None:
    assert kept(select([description(0, None, reason="empty")], MIRLOptions(gate=gate), 1)) == []
    assert select([], MIRLOptions(gate=gate), 1) == ()


def test_none_keeps_every_usable_description_whatever_k_and_mass_say() -> None:
    chosen = select(
        [description(i, None) for i in range(5)], MIRLOptions(gate="none", keep=2, adaptive_keep=0.1), None
    )
    assert kept(chosen) == [0, 1, 2, 3, 4]
    assert {candidate.score for candidate in chosen} == {0.0}


def test_random_repeats_with_its_seed_and_is_fair() -> None:
    descriptions = [description(i, None) for i in range(4)]
    options = MIRLOptions(gate="random", keep=1)
    assert select(descriptions, options, 5) == select(descriptions, options, 5)
    counts = [0] * 4
    for seed in range(400):
        counts[kept(select(descriptions, options, seed))[0]] += 1
    assert min(counts) > 60


def test_identical_descriptions_keep_their_multiplicity() -> None:
    twins = [
        description(0, 4.0, tokens=(1, 2, 7)),
        description(1, 4.0, tokens=(1, 2, 7)),
        description(2, 3.0),
    ]
    assert kept(select(twins, MIRLOptions(keep=2), None)) == [0, 1]


@pytest.mark.parametrize("gate", get_args(GateName))
def test_distinct_drops_repetitions_before_ranking(gate: GateName) -> None:
    # The third differs from the first only behind its content: in how the closing tag was cut into tokens.
    descriptions = [
        description(0, 4.0, tokens=(1, 2, 7)),
        description(1, 3.0),
        description(2, 4.0, tokens=(1, 2, 8, 9)),
    ]
    chosen = select(descriptions, MIRLOptions(gate=gate, keep=2, distinct=True), 1)
    assert kept(chosen) == [0, 1]
    assert (chosen[2].reason, chosen[2].score) == ("duplicate", None)


def test_distinct_does_not_confuse_an_unusable_twin() -> None:
    # Cut off in the middle, with the same content: it must not stand for the usable description.
    descriptions = [
        description(0, None, tokens=(1, 2), reason="truncated"),
        description(1, 1.0, tokens=(1, 2, 7)),
    ]
    assert kept(select(descriptions, MIRLOptions(distinct=True), None)) == [1]


def test_adaptive_keeps_one_where_one_holds_the_mass_and_k_where_all_are_alike() -> None:
    options = MIRLOptions(keep=3, adaptive_keep=0.9, normalize="sum")
    assert kept(select([description(0, 0.0), description(1, 9.0), description(2, 1.0)], options, None)) == [1]
    assert kept(select([description(i, 1.0) for i in range(5)], options, None)) == [0, 1, 2]


def test_mass_prefix_by_hand() -> None:
    # softmax of log 6, log 3, log 1 is 0.6, 0.3, 0.1.
    scores = [math.log(6), math.log(3), math.log(1)]
    assert [mass_prefix(scores, mass) for mass in (0.5, 0.6, 0.61, 0.9, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert mass_prefix([], 0.5) == 0
    assert mass_prefix([math.inf, math.inf, 1.0], 0.9) == 2
    assert mass_prefix([0.0, -math.inf], 1.0) == 1


cases = st.lists(
    st.tuples(
        st.floats(-20, 20),
        st.integers(1, 5),
        st.sampled_from([None, None, None, "truncated", "empty", "unparsable"]),
        st.sampled_from([(1, 2, 3, 4, 5), (2, 2, 3, 4, 5), (9, 8, 7, 6, 5)]),
    ),
    max_size=12,
)


@given(
    rows=cases,
    gate=st.sampled_from(get_args(GateName)),
    keep=st.integers(1, 8),
    distinct=st.booleans(),
    adaptive=st.none() | st.floats(0.01, 1),
    normalize=st.sampled_from(["token", "sum"]),
)
@settings(max_examples=200, deadline=None)
def test_invariants(
    rows: list[tuple[float, int, str | None, tuple[int, ...]]],
    gate: GateName,
    keep: int,
    distinct: bool,
    adaptive: float | None,
    normalize: str,
) -> None:
    descriptions = [
        description(index, mi, logprob=mi, content=content, reason=reason, tokens=tokens)
        for index, (mi, content, reason, tokens) in enumerate(rows)
    ]
    options = MIRLOptions.model_validate(
        {"gate": gate, "keep": keep, "distinct": distinct, "adaptive_keep": adaptive, "normalize": normalize}
    )
    chosen = select(descriptions, options, 3)
    # Only the three fields that are a gate's to fill have changed, and nothing has moved.
    assert [
        replace(candidate, score=None, kept=False, reason=before.reason)
        for candidate, before in zip(chosen, descriptions, strict=True)
    ] == descriptions
    usable = [candidate for candidate in chosen if candidate.reason in (None, "gate")]
    assert all(candidate.kept == (candidate.reason is None) for candidate in chosen)
    assert all((candidate.score is None) == (candidate not in usable) for candidate in chosen)
    assert bool(kept(chosen)) == bool(usable)
    dropped = [candidate.score for candidate in usable if not candidate.kept and candidate.score is not None]
    if gate == "none":
        assert not dropped
    else:
        assert len(kept(chosen)) <= keep
        assert all(
            candidate.score is not None and candidate.score >= max(dropped)
            for candidate in usable
            if candidate.kept and dropped
        )
    if distinct:
        contents = [candidate.token_ids[: candidate.content_tokens] for candidate in usable]
        assert len(set(contents)) == len(contents)


def test_what_an_earlier_selection_left_is_forgotten() -> None:
    stale = replace(description(0, None, reason="empty"), score=9.0, kept=True)
    chosen = select([stale, replace(description(1, 2.0), score=9.0, kept=True)], MIRLOptions(keep=1), None)
    assert [(candidate.score, candidate.kept, candidate.reason) for candidate in chosen] == [
        (None, False, "empty"),
        (1.0, True, None),
    ]


def test_a_description_without_content_is_not_divided_by_it() -> None:
    (chosen,) = select([description(0, 3.0, content=0)], MIRLOptions(), None)
    assert chosen.score == 3.0


def test_a_mass_is_reached_within_rounding_and_no_more() -> None:
    # Half of the mass to a trillionth: nearer counts as reached, farther costs another fork.
    assert mass_prefix([0.0, 0.0], 0.5) == 1
    assert mass_prefix([0.0, 0.0], 0.5 * (1 + 0.9e-12)) == 1
    assert mass_prefix([0.0, 0.0], 0.5 * (1 + 1.5e-12)) == 2
    assert mass_prefix([0.0, 0.0], 0.5 / (1 - 1e-12)) == 1
    assert mass_prefix([0.1 * -place for place in range(50)], 1.0) == 50
    assert mass_prefix([5.0], 0.5) == mass_prefix([1000.0, 0.0], 0.5) == 1
