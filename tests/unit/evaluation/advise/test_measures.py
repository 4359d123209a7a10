"""Figures of a model, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.evaluation.advise.candidates import GREEDY, ORACLE, SAMPLE, VOTES
from mirl_core.evaluation.advise.measures import label_free, labelled, slips
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.measures.outcomes import outcomes_of
from tests.unit.evaluation.advise.advise_cases import ranking
from tests.unit.evaluation.bank.bank_cases import question, reasoned, said

# The gate's score is log p − ½ log p without the image: x has 0, y ½, w −½ nats.
X, Y, W = said("x", [-1.0], [-2.0]), said("y", [-1.0], [-3.0]), said("w", [-1.0], [-1.0])
EMPTY = said("", [], reason="empty")
A = question(
    [X, Y, EMPTY],
    [reasoned(0, 0, "1"), reasoned(0, 1, "1.0", truth="1.0"), reasoned(1, 0, "1"), reasoned(1, 1, "2")],
)
B = question(
    [X, X, W], [reasoned(0, 0, "2"), reasoned(0, 1, None), reasoned(1, 0, "2"), reasoned(1, 1, "2")], key="b"
)
C = question([X, Y, W], [reasoned(0, 0, "1"), reasoned(1, 0, "3"), reasoned(2, 0, "1")], key="c")


def row(right: dict[str, list[int]], answers: dict[str, list[str | None]], key: str = "q") -> dict[str, Any]:
    """A question's line; methods without answers answer 1."""
    methods = {
        name: {
            "right": hits,
            "answer": answers.get(name, ["1"] * len(hits)),
            "generated_tokens": [10] * len(hits),
            "scored_tokens": [0] * len(hits),
            "trajectories": [1] * len(hits),
            "confidence": [None] * len(hits),
        }
        for name, hits in right.items()
    }
    return {"key": key, "clusters": [key], "methods": methods}


def free(*questions: BankedQuestion, voted: tuple[str | None, ...] = ("1", "1")) -> dict[str, Any]:
    lines = [
        row({GREEDY: [1, 1], VOTES: [1, 1]}, {GREEDY: ["1", "1"], VOTES: list(voted)}) for _ in questions
    ]
    return label_free(questions, lines, ranking())


def mean_and_n(measures: dict[str, Any], key: str) -> tuple[Any, int]:
    estimate = measures[key].estimate
    return pytest.approx(estimate.mean), estimate.n


def test_descriptions() -> None:
    measures = free(A, B)
    assert mean_and_n(measures, "unusable") == (1 / 6, 2)
    assert measures["unusable"].note == "empty 16.7"
    assert mean_and_n(measures, "distinct") == (2.0, 2)
    assert mean_and_n(measures, "unanswered") == (1 / 8, 2)


def test_repeats_of_a_chain() -> None:
    # A: x repeats itself (1.0 is 1), y doesn't. B: a chain of the first x has no answer, the second repeats.
    assert mean_and_n(free(A), "slips") == (1 / 2, 1)
    assert mean_and_n(free(B), "slips") == (0, 1)
    assert mean_and_n(free(A, B), "slips") == (1 / 4, 2)
    # C has one chain of each description.
    assert "slips" not in free(C)
    assert (slips([A, B]), slips([C]).n) == (free(A, B)["slips"].estimate, 0)


def test_chains_of_other_descriptions() -> None:
    # A: the first chains of x and y agree. In B all descriptions with chains read the same.
    assert mean_and_n(free(A), "follows") == (1 / 2 - 1, 1)
    assert mean_and_n(free(A, B), "follows") == (1 / 2 - 1, 1)
    assert "follows" not in free(B, C)


def test_what_votes_change() -> None:
    assert mean_and_n(free(A, voted=("1", "2")), "changed") == (1 / 2, 1)
    assert mean_and_n(free(A, voted=("one", None)), "changed") == (1 / 2, 1)
    assert mean_and_n(free(A, voted=("1.0", "1")), "changed") == (0, 1)


def test_ranks_against_the_vote() -> None:
    # A: the vote is 1 (three of four). y ranks first, and half of its chains agree; x's all do.
    assert mean_and_n(free(A), "agreement") == (1 / 2 - 3 / 4, 1)
    # C: the vote is 1, y's chain disagrees, and two of three agree.
    assert mean_and_n(free(C), "agreement") == (0 - 2 / 3, 1)
    # Without two equal answers there is no vote.
    apart = question([X, Y], [reasoned(0, 0, "1"), reasoned(1, 0, "2")])
    assert "agreement" not in free(apart)


def test_ranks_against_the_truth() -> None:
    lines = [row({GREEDY: [1], VOTES: [1], SAMPLE: [1], ORACLE: [1]}, {}, key) for key in ("q", "c")]
    measures = labelled([A, C], outcomes_of(lines), ranking())
    # A: y leads to one right chain of two, x to two. C: y's chain is wrong, those of x and w are right.
    assert mean_and_n(measures, "ranking") == (((1 / 2 - 3 / 4) + (0 - 2 / 3)) / 2, 2)
    # In A both first chains are right; in C the wrong one ranks above both.
    assert mean_and_n(measures, "ranking_auroc") == (0, 1)


def test_headroom() -> None:
    lines = [
        row({GREEDY: [1, 1], VOTES: [1, 1], SAMPLE: [0, 1], ORACLE: [1, 1]}, {}, "a"),
        row({GREEDY: [0, 0], VOTES: [1, 0], SAMPLE: [0, 0], ORACLE: [1, 1]}, {}, "b"),
    ]
    measures = labelled([A, B], outcomes_of(lines), ranking())
    for key, mean in (
        ("greedy", 1 / 2),
        ("sample", 1 / 4),
        ("votes_over_greedy", 1 / 4),
        ("votes_over_sample", 1 / 2),
        ("oracle", 1),
    ):
        assert mean_and_n(measures, key) == (mean, 2), key
    # No data without a judge of descriptions has these.
    assert not {"after_right", "after_wrong", "difference"} & set(measures)


def test_right_and_wrong_descriptions() -> None:
    judged = question(
        [said("x", right=True), said("y", right=False)],
        [reasoned(0, 0, "1"), reasoned(0, 1, "1"), reasoned(1, 0, "1"), reasoned(1, 1, "2")],
    )
    lines = [row({GREEDY: [1], VOTES: [1], SAMPLE: [1], ORACLE: [1]}, {})]
    measures = labelled([judged], outcomes_of(lines), ranking())
    assert mean_and_n(measures, "after_right") == (1, 1)
    assert mean_and_n(measures, "after_wrong") == (1 / 2, 1)
    assert mean_and_n(measures, "difference") == (1 / 2, 1)


def test_a_question_without_usable_descriptions() -> None:
    nothing = question([EMPTY, EMPTY], [], plain=reasoned(-1, 0, "1"))
    measures = free(nothing)
    assert mean_and_n(measures, "unusable") == (1, 1)
    assert mean_and_n(measures, "distinct") == (0, 1)
    assert not {"slips", "follows", "agreement", "unanswered"} & set(measures)
    lines = [row({GREEDY: [0], VOTES: [1], SAMPLE: [0], ORACLE: [1]}, {})]
    assert "ranking" not in labelled([nothing], outcomes_of(lines), ranking())


def test_every_figure_has_an_interval_and_its_questions() -> None:
    lines = [row({GREEDY: [1], VOTES: [1], SAMPLE: [1], ORACLE: [1]}, {}, key) for key in ("a", "b", "c")]
    for measures in (free(A, B, C), labelled([A, B, C], outcomes_of(lines), ranking())):
        for measure in measures.values():
            estimate = measure.estimate
            assert estimate.low <= estimate.mean <= estimate.high
            assert 1 <= estimate.n <= 3
    assert labelled([], {}, ranking()) == {}
