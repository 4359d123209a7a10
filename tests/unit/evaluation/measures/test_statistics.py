"""Figures against hand-counted cases, closed forms and simulations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mirl_core.evaluation.bank.records import BankedChain, BankedDescription, BankedQuestion
from mirl_core.evaluation.measures.outcomes import Outcomes
from mirl_core.evaluation.measures.selection import (
    causality,
    faithfulness,
    length_correlation,
    selection_quality,
    within_auroc,
)
from mirl_core.evaluation.measures.statistics import (
    compare,
    expected_error,
    figures,
    mcnemar,
    needed_questions,
    reliability,
)
from mirl_core.tasks.resampling import Resampling
from tests.unit.evaluation.synthetic import banked_questions

NAN = math.nan


def outcomes(right: list[list[int]], tokens: float = 10.0, confidence: float | None = 0.5) -> Outcomes:
    """Outcomes with the given right answers, all else constant."""
    entries = [
        {
            "right": row,
            "answer": ["1"] * len(row),
            "generated_tokens": [tokens] * len(row),
            "scored_tokens": [2] * len(row),
            "trajectories": [3] * len(row),
            "confidence": [confidence] * len(row),
        }
        for row in right
    ]
    keys = [f"q{place}" for place in range(len(right))]
    return Outcomes.of(keys, [()] * len(right), entries)


def question(
    rights: list[bool | None],
    scores: list[float],
    marginals: list[float],
    lengths: list[int] | None = None,
    chains: list[tuple[int, bool]] = (),  # type: ignore[assignment]
    key: str = "q",
) -> BankedQuestion:
    """One banked question; `scores` and `marginals` are nats per token."""
    lengths = lengths or [1] * len(rights)
    drawn = tuple(
        BankedDescription(f"d{i}", n + 1, n, None, (s,) * n, {"text": (m,) * n}, right)
        for i, (right, s, m, n) in enumerate(zip(rights, scores, marginals, lengths, strict=True))
    )
    made = tuple(BankedChain(i, 0, "1", right, 5, "stop", None, None) for i, right in chains)
    return BankedQuestion(key, "made-up", "", "1", (key,), drawn, made, (drawn[0], None))


def test_draws_are_averaged_before_questions() -> None:
    sample = outcomes([[1, 1], [1, 0], [0, 0], [0, 0]])
    result = figures(sample, Resampling(sample.clusters))
    assert result["accuracy"] == pytest.approx(3 / 8)
    assert result["n"] == 4
    assert result["draws"] == 2
    assert result["low"] < 3 / 8 < result["high"]
    assert (result["generated_tokens"], result["scored_tokens"], result["tokens"]) == (10, 2, 12)
    assert result["complete_trajectories"] == 3
    assert result["engine_seconds"] is None


def test_unanswered_and_unvoted_questions_are_distinguished() -> None:
    entry = {
        "right": [0],
        "answer": [None],
        "generated_tokens": [1],
        "scored_tokens": [0],
        "trajectories": [0],
        "confidence": [None],
    }
    sample = Outcomes.of(["a", "b"], [(), ()], [entry, entry | {"answer": ["7"], "right": [1]}])
    result = figures(sample, Resampling(sample.clusters))
    assert result["answered"] == 0.5
    assert result["confidence"] is None
    assert result["ece"] is None


def test_mcnemar_is_the_binomial_test_of_the_discordant() -> None:
    a = np.array([1] * 9 + [0] * 1 + [1] * 20 + [0] * 5, float)
    b = np.array([0] * 9 + [1] * 1 + [1] * 20 + [0] * 5, float)
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (9, 1)
    # Two-sided: P(X <= 1) + P(X >= 9) of ten fair coins.
    assert result.p == pytest.approx(2 * 11 / 1024)
    assert mcnemar(a, a).p == 1.0


def test_comparison_is_paired() -> None:
    a = outcomes([[1]] * 30 + [[0]] * 30 + [[1]] * 6, tokens=8)
    b = outcomes([[1]] * 30 + [[0]] * 30 + [[0]] * 6, tokens=18)
    result = compare(a, b, Resampling(a.clusters))
    assert result.difference.mean == pytest.approx(6 / 66)
    # Only six questions differ: unpaired, the interval would be some 0.17 wide either way.
    assert 0 < result.difference.low < result.difference.high < 0.18
    assert result.tokens_ratio.mean == pytest.approx(10 / 20)
    assert result.discordance == pytest.approx(6 / 66)
    with pytest.raises(ValueError, match="same questions"):
        compare(a, a.only(a.keys[:3]), Resampling(a.clusters))


def test_ratio_of_tokens_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        b = outcomes([[1]] * 60)
        cheap, dear = rng.gamma(4, 10, 60), rng.gamma(4, 20, 60)
        a = outcomes([[1]] * 60)
        object.__setattr__(b, "generated_tokens", cheap[:, None])
        object.__setattr__(a, "generated_tokens", dear[:, None])
        ratio = compare(b, a, Resampling(b.clusters, draws=300, seed=trial)).tokens_ratio
        held += ratio.low <= (40 + 2) / (80 + 2) <= ratio.high
    assert 0.90 <= held / 200 <= 0.985


def test_needed_questions_have_the_power_they_promise() -> None:
    n = needed_questions(discordance=0.2, difference=0.05)
    assert n is not None
    rng = np.random.default_rng(1)
    # Shares only a 0.125, only b 0.075: simulated power of McNemar's test with normal approximation.
    split = rng.multinomial(n, [0.125, 0.075, 0.8], 4000)
    z = (split[:, 0] - split[:, 1]) / np.sqrt(split[:, 0] + split[:, 1])
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.03)
    twice = needed_questions(0.2, 0.05, design_effect=2)
    assert twice is not None
    assert abs(twice - 2 * n) <= 1
    assert needed_questions(0.01, 0.05) is None
    assert needed_questions(0.2, 0) is None


def test_reliability_bins_and_their_error() -> None:
    confidence = np.array([[0.3, 0.3], [0.9, 1.0], [NAN, 0.95]])
    right = np.array([[1, 0], [1, 1], [0, 0]], float)
    bins = reliability(confidence, right)
    assert [(round(bin_.said, 3), bin_.right, bin_.n, bin_.questions) for bin_ in bins] == [
        (0.3, 0.5, 2, 1),
        (0.95, pytest.approx(2 / 3), 3, 2),
    ]
    assert expected_error(bins) == pytest.approx((2 * 0.2 + 3 * (0.95 - 2 / 3)) / 5)
    assert all(bin_.low <= bin_.right <= bin_.high for bin_ in bins)
    assert reliability(np.full((2, 2), NAN), right[:2]) == []
    assert expected_error([]) is None


def test_a_share_on_a_bin_edge_belongs_to_the_upper_bin() -> None:
    (only,) = reliability(np.array([[0.3], [0.1 * 3], [0.35]]), np.ones((3, 1)))
    assert only.n == 3
    # These are 0.8 and 0.1 but for the last bit, which tenfold still falls short of 8 and of 1.
    short = [0.1 + 0.7, 1 - 0.9]
    assert [math.floor(10 * share) for share in short] == [7, 0]
    (only,) = reliability(np.array([[short[0]], [0.8], [0.85]]), np.ones((3, 1)))
    assert only.n == 3
    lower, upper = reliability(np.array([[0.09], [short[1]], [0.1]]), np.ones((3, 1)))
    assert (lower.n, upper.n) == (1, 2)
    # What lies below by more than rounding stays below.
    lower, upper = reliability(np.array([[0.3 - 1e-6], [0.3]]), np.ones((2, 1)))
    assert (lower.n, upper.n) == (1, 1)


def test_auroc_counts_pairs_and_halves_ties() -> None:
    right = np.array([True, False, True, False])
    scores = np.array([[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    areas = within_auroc(scores, right)
    assert areas is not None
    assert areas.tolist() == [3.5 / 4, 0.5, 0.0]
    assert within_auroc(scores, np.ones(4, bool)) is None


def test_auroc_is_scikit_learns() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    right = rng.random(40) < 0.4
    scores = np.round(rng.normal(size=(3, 40)) + right, 1)
    areas = within_auroc(scores, right)
    assert areas is not None
    assert areas == pytest.approx([roc_auc_score(right, row) for row in scores])


def test_selection_quality_sees_what_the_weight_does() -> None:
    # The picture tells them apart (MI 1 against 0), habit hides it: by confidence the wrong one leads.
    mixed = question([True, False], [-2.0, -1.0], [-3.0, -1.0])
    rows = selection_quality([mixed, question([True, True], [0.0, -1.0], [0.0, 0.0])], ["text"], (0.0, 1.0))
    by = {(row["normalize"], row["mi_weight"]): row for row in rows}
    assert by["token", 0.0]["auroc"] == 0
    assert by["token", 1.0]["auroc"] == 1
    assert by["token", 1.0]["n"] == 1


def test_selection_quality_depends_on_normalisation_only_through_length() -> None:
    # The wrong one is longer: summed, its nats outweigh the better ones per token.
    mixed = question([True, False], [-1.0, -0.9], [-2.0, -1.5], lengths=[2, 9])
    rows = selection_quality([mixed], ["text"], (1.0,))
    assert {row["normalize"]: row["auroc"] for row in rows} == {"token": 1.0, "sum": 0.0}


def test_data_that_cannot_tell_right_descriptions_has_no_selection_figures() -> None:
    unknown = question([None, None], [-1.0, -2.0], [-1.0, -1.0], chains=[(0, True), (1, False)])
    assert selection_quality([unknown], ["text"]) == []
    assert causality([unknown]) is None
    assert faithfulness([unknown]) is None


def test_length_correlation_is_of_the_score_that_ranks() -> None:
    # MI is 0.5 nats a token whatever the length, so the sum follows length and the mean doesn't vary.
    rows = length_correlation([question([True] * 4, [-1.0] * 4, [-1.5] * 4, [2, 3, 5, 8])], ["text"])
    by = {(row["normalize"], row["mi_weight"]): row for row in rows}
    assert by["sum", 1.0]["within"] == pytest.approx(1.0)
    assert by["sum", 0.0]["within"] == pytest.approx(-1.0)
    assert by["token", 1.0]["within"] is None


def test_causality_compares_within_questions() -> None:
    both = question([True, False], [0.0, 0.0], [0.0, 0.0], chains=[(0, True), (1, False), (1, True)], key="a")
    easy = question([True, True], [0.0, 0.0], [0.0, 0.0], chains=[(0, True), (1, True)], key="b")
    row = causality([both, easy])
    assert row is not None
    assert (row["n"], row["after_right"], row["after_wrong"], row["difference"]) == (1, 1.0, 0.5, 0.5)
    assert row["descriptions_right"] == pytest.approx(3 / 4)


def test_faithfulness_counts_all_chains() -> None:
    both = question([True, False], [0.0, 0.0], [0.0, 0.0], chains=[(0, True), (1, False), (1, True)], key="a")
    easy = question([True, True], [0.0, 0.0], [0.0, 0.0], chains=[(0, True), (1, False)], key="b")
    result = faithfulness([both, easy])
    assert result is not None
    assert {name: (row["share"], row["n"]) for name, row in result.items()} == {
        "after_right": (pytest.approx(2 / 3), 3),
        "after_wrong": (0.5, 2),
    }
    assert list(faithfulness([easy]) or {}) == ["after_right"]


def test_chains_of_one_question_are_not_independent() -> None:
    # Every question's chains agree: 100 questions tell as much as 100 chains, however many there are.
    alike = [
        question([True], [0.0], [0.0], chains=[(0, number % 2 == 0)] * 20, key=f"q{number}")
        for number in range(100)
    ]
    result = faithfulness(alike)
    assert result is not None
    row = result["after_right"]
    assert (row["share"], row["n"]) == (0.5, 2000)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.1)
    assert result == faithfulness([replace(banked, clusters=()) for banked in alike])


def test_made_up_worlds_show_what_they_were_made_for() -> None:
    for misled, better in ((False, 0.0), (True, 1.0)):
        rows = selection_quality(banked_questions(150, misled=misled), ["text", "blank"], (0.0, 1.0))
        by = {(row["estimator"], row["mi_weight"]): row for row in rows if row["normalize"] == "token"}
        worse = 1.0 - better
        assert by["text", better]["auroc"] > by["text", worse]["auroc"]
        # Without weight the estimator has no say.
        assert by["text", 0.0]["auroc"] == by["blank", 0.0]["auroc"]
        assert all(row["low"] <= row["auroc"] <= row["high"] for row in rows)
