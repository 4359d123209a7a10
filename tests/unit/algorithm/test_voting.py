"""Aggregation and the early stop, the latter against every way in which the rest can end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.aggregators import AGGREGATORS, Outcome, Pending
from mirl_core.algorithm.answers import normalize
from mirl_core.algorithm.voting import decided, resolve, tally
from mirl_core.config import Aggregation
from mirl_core.types import Chain

PROSE = "The dog in the picture is sleeping on a sofa."
PROSES = (
    PROSE,
    "A cat can be seen behind the window of the house.",
    "Nobody is at home at this time of the day.",
)


def chain(
    description: int | None, fork: int, answer: str | None, score: float | None = None, finish: str = "stop"
) -> Chain:
    return Chain(description, fork, "", "", answer, 1, finish, score)  # type: ignore[arg-type]


def won(chains: list[Chain], aggregation: Aggregation) -> Outcome:
    outcome = tally(chains, aggregation)
    assert outcome is not None
    return outcome


def test_every_rule_the_settings_name_exists() -> None:
    assert {*AGGREGATORS, "auto"} == set(get_args(Aggregation))


def test_majority_counts_equal_answers_however_they_are_spelt() -> None:
    outcome = won([chain(0, 0, "4", 9.0), chain(1, 0, "12 cm", 1.0), chain(1, 1, "12cm", 1.0)], "majority")
    assert outcome.vote is not None
    assert (outcome.vote.answer, dict(outcome.vote.counts)) == ("12 cm", {"4": 1.0, "12 cm": 2.0})
    assert outcome.vote.share == outcome.confidence == pytest.approx(2 / 3)
    assert outcome.aggregation == "majority"


def test_representative_is_the_best_described_chain_of_the_winner() -> None:
    chains = [chain(0, 1, "4", 1.0), chain(2, 1, "4.0", 3.0), chain(2, 0, "four", 3.0), chain(1, 0, "5", 9.0)]
    assert won(chains, "majority").representative is chains[2]


def test_majority_tie_goes_to_the_better_description_then_to_the_earlier_chain() -> None:
    assert won([chain(0, 0, "4", 1.0), chain(1, 0, "5", 2.0)], "majority").representative.answer == "5"
    assert won([chain(1, 0, "5", 2.0), chain(0, 0, "4", 2.0)], "majority").representative.answer == "4"
    assert won([chain(0, 1, "5"), chain(0, 0, "4")], "majority").representative.answer == "4"


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_aborted_and_answerless_chains_do_not_vote(aggregation: Aggregation) -> None:
    silent = [chain(0, 0, None, 9.0), chain(0, 1, "5", 9.0, "abort"), chain(1, 1, None, 9.0, "length")]
    assert tally(silent, aggregation) is None
    assert tally([], aggregation) is None
    assert not decided(silent, [], aggregation)
    outcome = won([*silent, chain(2, 0, "4", 0.0, "length")], aggregation)
    assert outcome.representative.answer == "4"
    assert outcome.confidence in (None, 1.0)


def test_mi_weighted_can_overrule_a_majority() -> None:
    chains = [chain(0, 0, "4", math.log(6)), chain(1, 0, "5", math.log(2)), chain(2, 0, "5", math.log(2))]
    assert won(chains, "majority").representative.answer == "5"
    outcome = won(chains, "mi_weighted")
    assert outcome.vote is not None
    assert outcome.vote.counts == pytest.approx({"4": 0.6, "5": 0.4})
    assert (outcome.vote.answer, outcome.confidence) == ("4", pytest.approx(0.6))


def test_mi_weighted_normalises_over_descriptions_silent_ones_too() -> None:
    chains = [chain(0, 0, "4", 0.0), chain(0, 1, "4", 0.0), chain(1, 0, None, math.log(3))]
    outcome = won(chains, "mi_weighted")
    assert outcome.vote is not None
    assert outcome.vote.counts == pytest.approx({"4": 0.5})
    assert outcome.confidence == 1.0


def test_mi_weighted_without_scores_is_a_majority() -> None:
    chains = [chain(0, 0, "4"), chain(1, 0, "5"), chain(2, 0, "5")]
    assert won(chains, "mi_weighted").confidence == pytest.approx(2 / 3)


def test_mi_weighted_survives_extreme_scores() -> None:
    chains = [chain(0, 0, "4", 5000.0), chain(1, 0, "5", -5000.0), chain(2, 0, "6", math.inf)]
    assert won(chains, "mi_weighted").representative.answer == "6"


def test_best_takes_the_best_description_and_does_not_vote() -> None:
    chains = [chain(0, 0, "4", 1.0), chain(1, 1, "5", 2.0), chain(2, 0, "4", 1.5), chain(1, 0, None, 2.0)]
    outcome = won(chains, "best")
    assert (outcome.representative.answer, outcome.vote, outcome.confidence) == ("5", None, None)


def test_auto_votes_where_more_than_half_of_the_answers_cluster() -> None:
    short, prose = chain(0, 0, "4", 1.0), chain(1, 0, PROSE, 2.0)
    assert won([short, prose], "auto").aggregation == "best"
    assert won([short, prose], "auto").representative is prose
    assert won([short, replace(short, fork=1), prose], "auto").aggregation == "majority"
    assert resolve("auto", []) == "best"
    assert resolve("mi_weighted", [PROSE]) == "mi_weighted"


def test_plain_generation_has_an_outcome_too() -> None:
    only = chain(None, 0, "4")
    for aggregation in get_args(Aggregation):
        assert won([only], aggregation).representative is only


def test_majority_is_decided_at_the_lead_that_the_rest_cannot_catch() -> None:
    ahead = [chain(i, 0, "4", 1.0) for i in range(3)] + [chain(3, 0, "5", 1.0)]
    assert decided(ahead, [Pending(4, 0, 1.0)], "majority")
    # Two could tie; they would lose the tie by place, but win it by score.
    assert decided(ahead, [Pending(4, 0, 1.0), Pending(4, 1, 1.0)], "majority")
    assert not decided(ahead, [Pending(4, 0, 2.0), Pending(4, 1, 2.0)], "majority")
    assert not decided(ahead, [Pending(4, fork, 1.0) for fork in range(3)], "majority")


def test_a_new_answer_is_reckoned_with() -> None:
    assert not decided([chain(0, 0, "4", 1.0)], [Pending(1, 0, 1.0), Pending(1, 1, 1.0)], "majority")


def test_best_waits_for_better_descriptions_only() -> None:
    done = [chain(1, 0, "4", 1.0)]
    assert decided(done, [Pending(0, 0, 0.5), Pending(1, 1, 1.0)], "best")
    assert not decided(done, [Pending(0, 0, 1.5)], "best")
    assert not decided([chain(1, 1, "4", 1.0)], [Pending(1, 0, 1.0)], "best")


def test_auto_waits_while_the_rest_could_still_change_the_rule() -> None:
    # "4" four times against three captions: a vote so far, and as a vote decided; two more captions make it
    # `best`, whose answer is another one, or not yet known.
    four = [chain(i, 0, "4", 1.0) for i in range(4)]
    captions = [chain(4 + i, 0, text, 0.0) for i, text in enumerate(PROSES)]
    worst = [Pending(7, 0, -1.0), Pending(7, 1, -1.0)]
    best = [Pending(7, 0, 9.0), Pending(7, 1, 9.0)]
    assert decided([*four, *captions], best, "majority")
    assert not decided([*four, *captions], best, "auto")
    assert not decided([*four, *(replace(caption, score=2.0) for caption in captions)], worst, "auto")
    assert decided([*four, *captions], worst, "auto")
    # One more "4", and the captions can't outnumber them any more.
    assert decided([*four, chain(8, 0, "4", 1.0), *captions], best[:1], "auto")


def test_auto_waits_while_the_rest_could_still_make_it_a_vote() -> None:
    # A caption is best so far and nothing better is to come, but with two more "4" they are three of five.
    done = [chain(0, 0, PROSES[0], 2.0), chain(0, 1, PROSES[1], 2.0), chain(1, 0, "4", 1.0)]
    outstanding = [Pending(1, 1, 1.0), Pending(2, 0, 1.0)]
    assert decided(done, outstanding, "best")
    assert not decided(done, outstanding, "auto")
    assert decided(done, [], "auto")


ANSWERS = ["1", "1", "1.0", "2", *PROSES, None]
NEW = ["3", "A new caption that nobody else has given so far.", None]
SCORES: list[float | None] = [None, 0.0, 0.5, math.log(2), 3.0, -800.0]


def completions(done: list[Chain], outstanding: list[Pending]) -> Iterator[list[Chain]]:
    """Every way in which the outstanding chains can end: any answer there is, a new one, or none."""
    ends = [
        *{
            normalize(settled.answer): settled.answer for settled in done if settled.answer is not None
        }.values(),
        *NEW,
    ]
    for chosen in itertools.product(ends, repeat=len(outstanding)):
        yield done + [
            # Without an answer, by the end of its text or because it was aborted.
            chain(
                pending.description,
                pending.fork,
                end,
                pending.score,
                "abort" if end is None and pending.fork else "stop",
            )
            for pending, end in zip(outstanding, chosen, strict=True)
        ]


def winner(chains: list[Chain], aggregation: Aggregation) -> tuple[str, str] | None:
    outcome = tally(chains, aggregation)
    if outcome is None or outcome.representative.answer is None:
        return None
    answer = normalize(outcome.representative.answer)
    return answer.kind, answer.key


@st.composite
def races(draw: st.DrawFn) -> tuple[list[Chain], list[Pending]]:
    """Up to five descriptions with two forks each, in any order; at most three chains outstanding."""
    scores = draw(st.lists(st.sampled_from(SCORES) | st.floats(-3, 3), min_size=1, max_size=5))
    places = draw(st.permutations([(i, fork) for i in range(len(scores)) for fork in range(2)]))
    waiting = draw(st.integers(0, min(3, len(places) - 1)))
    done = [
        chain(
            i,
            fork,
            draw(st.sampled_from(ANSWERS)),
            scores[i],
            draw(st.sampled_from(["stop", "stop", "stop", "stop", "length", "abort"])),
        )
        for i, fork in places[waiting:]
    ]
    return done, [Pending(i, fork, scores[i]) for i, fork in places[:waiting]]


@given(race=races(), aggregation=st.sampled_from(get_args(Aggregation)))
@settings(max_examples=100, deadline=None)
def test_once_decided_no_completion_changes_the_winning_answer(
    race: tuple[list[Chain], list[Pending]], aggregation: Aggregation
) -> None:
    done, outstanding = race
    now = winner(done, aggregation)
    outcomes = {winner(full, aggregation) for full in completions(done, outstanding)}
    if decided(done, outstanding, aggregation):
        assert outcomes == {now}
        assert now is not None
    elif aggregation in ("majority", "best"):
        # And it doesn't wait for nothing.
        assert now is None or len(outcomes) > 1
    if not outstanding:
        assert decided(done, outstanding, aggregation) == (now is not None)


@given(race=races(), aggregation=st.sampled_from(get_args(Aggregation)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_outcome_does_not_depend_on_who_finished_first(
    race: tuple[list[Chain], list[Pending]], aggregation: Aggregation, data: st.DataObject
) -> None:
    done, _ = race
    shuffled = data.draw(st.permutations(done))
    assert tally(done, aggregation) == tally(shuffled, aggregation)


@given(race=races())
@settings(max_examples=100, deadline=None)
def test_votes_add_up(race: tuple[list[Chain], list[Pending]]) -> None:
    done, _ = race
    outcome = tally(done, "majority")
    voters = [voter for voter in done if voter.finished and voter.answer is not None]
    if outcome is None:
        assert voters == []
        return
    assert outcome.vote is not None
    assert sum(outcome.vote.counts.values()) == len(voters)
    assert outcome.vote.counts[outcome.vote.answer] == max(outcome.vote.counts.values())
    assert outcome.representative in voters


@pytest.mark.parametrize(
    ("proses", "fours", "outstanding", "certain"),
    [
        # Three of five cluster; one more caption makes it three of six, and the best caption the answer.
        ([2.0, 2.0], 3, [0.0], False),
        ([2.0, 2.0], 4, [0.0], True),
        # One of three clusters: one more makes it two of four at most, which is no majority.
        ([2.0, 1.5], 1, [0.0], True),
        ([2.0, 1.5], 1, [0.0, 0.0], False),
    ],
)
def test_auto_at_the_edge_between_its_rules(
    proses: list[float], fours: int, outstanding: list[float], certain: bool
) -> None:
    done = [chain(i, 0, PROSES[i], score) for i, score in enumerate(proses)]
    done += [chain(10 + i, 0, "4", 1.0) for i in range(fours)]
    pending = [Pending(20 + i, 0, score) for i, score in enumerate(outstanding)]
    assert decided(done, pending, "auto") is certain
    rules: set[str] = set()
    for full in completions(done, pending):
        outcome = tally(full, "auto")
        assert outcome is not None
        rules.add(outcome.aggregation)
    assert (len(rules) == 1) is certain


@pytest.mark.parametrize("forks", range(2, 12))
def test_totals_that_differ_by_rounding_are_a_tie(forks: int) -> None:
    # One chain of weight `forks` against `forks` chains of weight 1, summed with rounding.
    single = chain(0, 0, "4", math.log(forks))
    many = [chain(1, fork, "5", 0.0) for fork in range(forks)]
    assert won([single, *many], "mi_weighted").representative is single
    # The better score is with the many now, and the tie is theirs.
    single, many = chain(1, 0, "4", -math.log(forks)), [chain(0, 0, "5", 0.0)]
    rest = [chain(2, fork, "4", -math.log(forks)) for fork in range(forks - 1)]
    assert won([single, *rest, *many], "mi_weighted").representative.answer == "5"


@pytest.mark.parametrize(
    ("lead", "answer", "certain"),
    [
        (-3e-9, "4", True),
        (0.0, "4", True),
        (0.4e-9, "4", True),
        (0.7e-9, "4", False),
        (1.5e-9, "5", False),
        (3e-9, "5", False),
    ],
)
def test_the_width_of_a_tie(lead: float, answer: str, certain: bool) -> None:
    # Two chains of "5" weigh 1 + lead of what the better described "4" does.
    four, five = chain(0, 0, "4", math.log(2)), chain(1, 0, "5", lead)
    assert won([four, five, replace(five, fork=1)], "mi_weighted").representative.answer == answer
    assert decided([four, five], [Pending(1, 1, lead)], "mi_weighted") is certain


@pytest.mark.parametrize(("lead", "certain"), [(-1.5e-9, False), (-3e-9, True)])
def test_a_rival_that_comes_close_is_waited_for(lead: float, certain: bool) -> None:
    # The rival is better described, so that it would win a tie.
    done = [chain(1, 0, "4", 0.0), chain(1, 1, "4", 0.0)]
    assert decided(done, [Pending(0, 0, math.log(2) + lead)], "mi_weighted") is certain


def test_a_chain_without_a_score_ranks_last_and_weighs_as_score_zero() -> None:
    unscored, scored = chain(0, 0, "4"), chain(1, 0, "5", -5.0)
    assert won([unscored, scored], "majority").representative is scored
    outcome = won([unscored, replace(scored, score=math.log(3))], "mi_weighted")
    assert (outcome.representative.answer, outcome.confidence) == ("5", pytest.approx(0.75))
    assert won([chain(0, 0, "5"), chain(None, 1, "4")], "majority").representative.answer == "4"
    assert won([chain(0, 0, "5", 1.0), chain(None, 1, "4", 1.0)], "best").representative.answer == "4"


def test_shares_where_every_answer_weighs_nothing() -> None:
    # Beside a description that is better by 800 nats, and silent, the others' weights are 0.
    chains = [chain(0, 0, None, 0.0), *(chain(i, 0, str(i), -800.0) for i in (1, 2, 3, 4))]
    outcome = won(chains, "mi_weighted")
    assert outcome.vote is not None
    assert (outcome.vote.answer, outcome.vote.share, outcome.confidence) == ("1", 0.25, 0.25)
    assert outcome.vote.counts == {"1": 0.0, "2": 0.0, "3": 0.0, "4": 0.0}


def test_a_group_is_named_by_its_first_chain_and_names_that_coincide_share_a_count() -> None:
    spelt = [chain(2, 0, r"2\pi", 1.0), chain(1, 1, r"\pi 2", 1.0), chain(1, 0, r"\pi \cdot 2", 1.0)]
    vote = won(spelt, "majority").vote
    assert vote is not None
    assert (vote.answer, dict(vote.counts)) == (r"\pi \cdot 2", {r"\pi \cdot 2": 3.0})
    # A yes, and a text that is spelt "yes" but wasn't read as one.
    vote = won([chain(0, 0, "yes"), chain(1, 0, "[yes]"), chain(2, 0, "yes")], "majority").vote
    assert vote is not None
    assert (vote.share, dict(vote.counts)) == (pytest.approx(2 / 3), {"yes": 3.0})


@pytest.mark.parametrize(
    ("winner", "rival", "outstanding", "certain"),
    [
        # Two against two is all that can come of it: the best description of each side decides.
        ([9.0, 0.0], [1.0], [1.0], True),
        ([1.0, 1.0], [9.0], [0.0], False),
        ([1.0, 1.0], [0.0], [9.0], False),
        ([1.0, 1.0], [0.0], [0.0], True),
    ],
)
def test_a_tie_that_may_come_goes_to_the_side_with_the_best_description(
    winner: list[float], rival: list[float], outstanding: list[float], certain: bool
) -> None:
    done = [chain(i, 0, "4", score) for i, score in enumerate(winner)]
    done += [chain(5 + i, 0, "5", score) for i, score in enumerate(rival)]
    pending = [Pending(8 + i, 0, score) for i, score in enumerate(outstanding)]
    assert decided(done, pending, "majority") is certain
    joined = [*done, *(chain(missing.description, missing.fork, "5", missing.score) for missing in pending)]
    assert (won(joined, "majority").representative.answer == "4") is certain
    assert (won(joined[::-1], "majority").representative.answer == "4") is certain


def test_best_waits_for_every_better_chain_and_rules_have_names() -> None:
    done = [chain(1, 0, "4", 1.0)]
    assert not decided(done, [Pending(0, 0, 0.5), Pending(2, 0, 1.5)], "best")
    assert {name: won(done, name).aggregation for name in AGGREGATORS} == {name: name for name in AGGREGATORS}


def test_a_tie_within_rounding_is_decided_once_nothing_is_outstanding() -> None:
    done = [chain(0, 0, "4", math.log(2)), chain(1, 0, "5", 0.7e-9), chain(1, 1, "5", 0.7e-9)]
    assert decided(done, [], "mi_weighted")


def test_an_empty_answer_is_an_answer_of_its_own() -> None:
    # A stop string at the very beginning leaves an empty answer.
    outcome = won([chain(0, 0, ""), chain(1, 0, "XXXX"), chain(2, 0, "XXXX")], "majority")
    assert outcome.vote is not None
    assert (outcome.vote.answer, dict(outcome.vote.counts)) == ("xxxx", {"": 1.0, "xxxx": 2.0})
    assert won([chain(0, 0, "")], "auto").aggregation == "best"
    worst = [Pending(9, fork, -1.0) for fork in range(3)]
    captions = [chain(i, 0, text, 2.0) for i, text in enumerate(["", *PROSES[:2]])]
    assert decided(captions, worst, "auto")
    # The vote is for "XXXX", the best description's answer is empty, and either rule may come.
    five = [chain(i, 0, "XXXX", 1.0) for i in range(5)]
    assert not decided([*five, chain(5, 0, "", 2.0), chain(6, 0, PROSE, 0.0)], worst, "auto")
