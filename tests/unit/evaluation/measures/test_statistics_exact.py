"""Figures against numbers that scipy or a pocket calculator gives, term by term."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from mirl_core.evaluation.measures.outcomes import Outcomes
from mirl_core.evaluation.measures.statistics import (
    Bin,
    Comparison,
    McNemar,
    compare,
    detectable_difference,
    expected_error,
    figures,
    holm,
    mcnemar,
    needed_questions,
    reliability,
)
from mirl_core.tasks.resampling import Estimate, Resampling

NAN = math.nan


def outcomes(right: list[list[float]], **changed: list[list[Any]]) -> Outcomes:
    """Outcomes of questions that share no scene; all that is not changed is constant."""
    entries = []
    for place, row in enumerate(right):
        entry: dict[str, Any] = {
            "right": row,
            "answer": ["1"] * len(row),
            "generated_tokens": [10] * len(row),
            "scored_tokens": [2] * len(row),
            "trajectories": [3] * len(row),
            "confidence": [0.5] * len(row),
        }
        entries.append(entry | {name: column[place] for name, column in changed.items()})
    return Outcomes.of([f"q{place}" for place in range(len(right))], [()] * len(right), entries)


def test_every_figure_is_the_mean_of_its_own_field() -> None:
    made = outcomes(
        [[1, 0, 1], [0, 0, 1]],
        answer=[["1", None, "2"], [None, None, "1"]],
        generated_tokens=[[10, 20, 30], [40, 50, 60]],
        scored_tokens=[[1, 2, 3], [4, 5, 6]],
        trajectories=[[1, 2, 2], [3, 4, 6]],
        confidence=[[0.1, None, 0.9], [0.2, None, 0.4]],
        seconds=[[0.5, 1.0, 1.5], [2.0, None, 3.0]],
    )
    resampling = Resampling(made.clusters)
    result = figures(made, resampling)
    accuracy, tokens = resampling.proportion([2 / 3, 1 / 3]), resampling.mean([22.0, 55.0])
    assert result == pytest.approx(
        {
            "accuracy": 0.5,
            "low": accuracy.low,
            "high": accuracy.high,
            "n": 2,
            "draws": 3,
            "generated_tokens": 35.0,
            "scored_tokens": 3.5,
            "tokens": 38.5,
            "tokens_low": tokens.low,
            "tokens_high": tokens.high,
            "complete_trajectories": 3.0,
            "answered": 0.5,
            "confidence": 0.4,
            # Right and confidence of the four: (1, 0.1), (1, 0.9), (0, 0.2), (1, 0.4), each in its own bin.
            "ece": (0.9 + 0.1 + 0.2 + 0.6) / 4,
            "engine_seconds": 1.6,
        }
    )
    assert accuracy.low < 0.5 < accuracy.high
    assert tokens.low < 38.5 < tokens.high


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 1), (3, 0), (1, 7), (5, 5), (12, 4)], ids=lambda number: str(number)
)
def test_mcnemar_counts_each_side_and_sums_the_binomial_tails(only_a: int, only_b: int) -> None:
    a = np.array([1.0] * only_a + [0.0] * only_b + [1.0, 1.0, 0.0])
    b = np.array([0.0] * only_a + [1.0] * only_b + [1.0, 1.0, 0.0])
    n, less = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(less + 1)) / 2**n
    assert astuple(mcnemar(a, b)) == (only_a, only_b, pytest.approx(min(1.0, 2 * tail)))


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        # (1.959964 √0.2 + 0.841621 √(0.2 − 0.05²))² / 0.05² = 625.55, and so on, rounded up.
        ((0.2, 0.05), 626),
        # d² is no small part of p here.
        ((0.3, 0.2), 57),
        ((0.5, 0.4, 1.0, 0.9, 0.01), 42),
        # As many discordant questions as the difference needs are enough.
        ((0.05, 0.05), 155),
        ((0.3, 0.2, 1.7), 96),
        ((0.3, 0.02), 5885),
    ],
)
def test_needed_questions_are_connors(arguments: tuple[float, ...], needed: int) -> None:
    assert needed_questions(*arguments) == needed


def test_no_difference_is_detectable_where_there_is_none_or_too_few_are_discordant() -> None:
    assert needed_questions(0.2, 0.0) is None
    assert needed_questions(0.2, -0.05) is None
    assert needed_questions(0.0499, 0.05) is None


def test_a_comparison_says_its_figures_by_name() -> None:
    made = Comparison(
        Estimate(0.1, 0.05, 0.15, 40), Estimate(0.5, 0.4, 0.6, 40), McNemar(7, 3, 0.34), 0.3, 2.5, 0.04
    )
    assert made.needed(0.02) == 14711
    assert made.to_json() == {
        "difference": 0.1,
        "low": 0.05,
        "high": 0.15,
        "n": 40,
        "tokens_ratio": 0.5,
        "tokens_ratio_low": 0.4,
        "tokens_ratio_high": 0.6,
        "only_a": 7,
        "only_b": 3,
        "mcnemar_p": 0.34,
        "bootstrap_p": 0.04,
        "discordance": 0.3,
        "design_effect": 2.5,
        "needed_for_2_points": 14711,
    }


def test_both_kinds_of_discordant_questions_count_on_the_first_draw() -> None:
    a = outcomes([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    b = outcomes([[0, 0], [0, 1], [1, 1], [1, 1], [0, 0]])
    result = compare(a, b, Resampling(a.clusters))
    assert (result.mcnemar.only_a, result.mcnemar.only_b) == (2, 1)
    assert result.discordance == 3 / 5
    # By question, over draws: 1/2, 0 (one each way), −1/2, 0, 0.
    assert result.difference.mean == pytest.approx(0.0)


def test_the_design_effect_of_questions_in_pairs_is_two() -> None:
    """Six questions, two of every scene alike: the variance of three cases, twice that of six."""
    a, b = outcomes([[1], [1], [0], [0], [1], [1]]), outcomes([[0], [0], [1], [1], [0], [0]])
    paired = Resampling([(f"scene-{place // 2}",) for place in range(6)], draws=40_000)
    assert compare(a, b, paired).design_effect == pytest.approx(2.0, rel=0.04)
    alone = Resampling([(f"scene-{place}",) for place in range(6)], draws=40_000)
    assert compare(a, b, alone).design_effect == pytest.approx(1.0, rel=0.04)


def test_the_design_effect_is_never_below_one() -> None:
    a, b = outcomes([[1], [0], [1], [0]]), outcomes([[0], [1], [0], [1]])
    # In each scene the two differences cancel, so resampling scenes moves nothing.
    cancelling = Resampling([("x",), ("x",), ("y",), ("y",)])
    assert compare(a, b, cancelling).design_effect == 1.0
    assert compare(a, a, cancelling).design_effect == 1.0


def test_one_question_that_differs_is_all_of_them() -> None:
    a, b = outcomes([[1]]), outcomes([[0]])
    result = compare(a, b, Resampling(a.clusters))
    assert (result.discordance, result.design_effect, result.difference.mean) == (1.0, 1.0, 1.0)
    assert (result.tokens_ratio.mean, result.tokens_ratio.low, result.tokens_ratio.high) == (1.0, 1.0, 1.0)


def test_the_ratio_of_tokens_has_the_delta_methods_interval() -> None:
    rng = np.random.default_rng(0)
    cheap, dear = rng.gamma(4, 10, (80, 1)), rng.gamma(4, 20, (80, 1))
    a = outcomes([[1]] * 80, generated_tokens=cheap.tolist(), scored_tokens=[[0]] * 80)
    b = outcomes([[1]] * 80, generated_tokens=dear.tolist(), scored_tokens=[[0]] * 80)
    tokens_ratio = compare(a, b, Resampling(a.clusters, draws=40_000)).tokens_ratio
    x, y = cheap[:, 0], dear[:, 0]
    ratio = x.mean() / y.mean()
    covariance = np.cov(x, y, bias=True)
    variance = covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
    half = 1.959964 * math.sqrt(variance / 80) / y.mean()
    assert (tokens_ratio.mean, tokens_ratio.n) == (pytest.approx(ratio), 80)
    assert ratio - tokens_ratio.low == pytest.approx(half, rel=0.06)
    assert tokens_ratio.high - ratio == pytest.approx(half, rel=0.06)


def test_only_a_constant_ratio_has_an_interval_of_no_width() -> None:
    def ratio(a: list[float], b: list[float], clusters: list[tuple[str, ...]]) -> Estimate:
        dear, cheap = (
            outcomes(
                [[1]] * len(tokens), generated_tokens=[[n] for n in tokens], scored_tokens=[[0]] * len(tokens)
            )
            for tokens in (a, b)
        )
        return compare(dear, cheap, Resampling(clusters)).tokens_ratio

    # Half of every question's tokens, whatever the question takes.
    assert astuple(ratio([10, 21, 35], [20, 42, 70], [("x",), ("y",), ("z",)])) == (0.5, 0.5, 0.5, 3)
    assert astuple(ratio([0, 0], [20, 42], [("x",), ("y",)])) == (0.0, 0.0, 0.0, 2)
    # One question, or one scene, tells nothing about others.
    for estimate in (ratio([10], [20], [("x",)]), ratio([10, 30], [20, 20], [("x",), ("x",)])):
        assert estimate.mean in (0.5, 1.0)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
    # Unless both took the same tokens.
    assert astuple(ratio([20], [20], [("x",)])) == (1.0, 1.0, 1.0, 1)
    varied = ratio([10, 30], [20, 20], [("x",), ("y",)])
    assert varied.low < 0.95 < varied.mean == 1.0 < 1.05 < varied.high


def test_a_comparison_has_the_resamplings_interval_and_p_value() -> None:
    a, b = outcomes([[1, 1], [1, 0], [0, 0], [1, 1]]), outcomes([[1, 0], [0, 0], [0, 0], [1, 1]])
    resampling = Resampling([("x",), ("x",), ("y",), ("z",)])
    result = compare(a, b, resampling)
    shares = [1.0, 0.5, 0.0, 1.0], [0.5, 0.0, 0.0, 1.0]
    assert result.difference == resampling.difference(*shares)
    assert result.p == resampling.difference_p(*shares)
    same = compare(a, a, resampling)
    # Kish's number of scenes: 16 / 6.
    bound = 1 - 0.025 ** (6 / 16)
    assert (same.difference.low, same.difference.high, same.p) == pytest.approx((-bound, bound, 1.0))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        # The first times 3; twice 0.03, and 0.04 no less than its predecessor.
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.02, 0.01], [0.02, 0.02]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.9, 0.6, 0.01], [1.0, 1.0, 0.03]),
        ([0.5, 0.5], [1.0, 1.0]),
    ],
)
def test_holms_adjustment_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        # Connor's formula as above, the other way round.
        ((0.2, 626), 0.05),
        ((0.3, 5885), 0.02),
        ((0.3, 96, 1.7), 0.2),
        # Of four questions all must differ: 1.959964² = 3.84.
        ((0.0, 4), 0.998),
        ((1.0, 4), 0.999),
    ],
)
def test_the_detectable_difference_is_connors(arguments: tuple[float, ...], least: float) -> None:
    difference = detectable_difference(*arguments)
    assert difference == pytest.approx(least, abs=1e-3)
    assert difference is not None
    assert needed_questions(max(arguments[0], difference), difference, *arguments[2:]) <= arguments[1]
    assert (
        needed_questions(max(arguments[0], difference - 2e-6), difference - 2e-6, *arguments[2:])
        > arguments[1]
    )


def test_a_difference_above_the_discordance_needs_more_discordant_questions() -> None:
    """(1.959964 √d + 0.841621 √(d − d²))² / d² ≤ 100 from d = 0.0767 on, however few differ in the sample."""
    assert detectable_difference(0.0, 100) == pytest.approx(0.07666, abs=1e-5)
    assert detectable_difference(0.05, 100) == detectable_difference(0.0, 100)
    assert detectable_difference(0.2, 100) > 0.12


@pytest.mark.parametrize(("n", "design_effect"), [(3, 1.0), (0, 1.0), (7, 2.0)])
def test_too_few_questions_detect_nothing(n: int, design_effect: float) -> None:
    assert detectable_difference(0.1, n, design_effect) is None


def test_a_ratio_to_nothing_is_no_number() -> None:
    a = outcomes([[1]] * 3)
    nothing = outcomes([[1]] * 3, generated_tokens=[[0]] * 3, scored_tokens=[[0]] * 3)
    tokens_ratio = compare(a, nothing, Resampling(a.clusters)).tokens_ratio
    assert tokens_ratio.n == 3
    assert all(math.isnan(figure) for figure in (tokens_ratio.mean, tokens_ratio.low, tokens_ratio.high))
    # Less than one token on average is still a cost.
    little = outcomes([[1]] * 3, generated_tokens=[[1], [0], [0]], scored_tokens=[[0]] * 3)
    assert compare(a, little, Resampling(a.clusters)).tokens_ratio.mean == pytest.approx(36.0)


@pytest.mark.parametrize(
    ("right", "n"),
    [(0, 50), (7, 9), (1, 2), (3, 4), (0, 1), (300, 1000), (0, 2), (0, 3), (9, 9), (10, 10), (20, 20)],
)
def test_a_bins_interval_is_wilsons(right: int, n: int) -> None:
    hits = np.array([[1.0]] * right + [[0.0]] * (n - right))
    (only,) = reliability(np.full((n, 1), 0.55), hits)
    theirs = binomtest(right, n).proportion_ci(method="wilson")
    assert (only.n, only.questions) == (n, n)
    assert (only.low, only.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-12)
    assert 0 <= only.low <= only.right <= only.high <= 1


def test_draws_of_one_question_narrow_no_bin() -> None:
    # Three right of four answers, to two questions: Wilson at 3/4 of 2.
    (only,) = reliability(np.full((2, 2), 0.55), np.array([[1.0, 1.0], [1.0, 0.0]]))
    z2 = 1.959964**2
    centre, half = 0.75 + z2 / 4, 1.959964 * math.sqrt(0.75 * 0.25 / 2 + z2 / 16)
    expected = ((centre - half) / (1 + z2 / 2), (centre + half) / (1 + z2 / 2))
    assert astuple(only) == (0.55, 0.75, *map(pytest.approx, expected), 4, 2)


def test_bins_are_tenths_and_the_last_holds_certainty() -> None:
    said = [0.0, 0.05, 0.1, 0.19, 0.2, 0.89, 0.9, 0.95, 1.0]
    bins = reliability(np.array(said)[:, None], np.ones((9, 1)))
    assert [bin_.n for bin_ in bins] == [2, 2, 1, 1, 3]
    assert [bin_.said for bin_ in bins] == pytest.approx([0.025, 0.145, 0.2, 0.89, 0.95])
    halves = reliability(np.array(said)[:, None], np.ones((9, 1)), bins=2)
    assert [bin_.n for bin_ in halves] == [5, 4]


def test_the_expected_error_weighs_bins_by_their_answers() -> None:
    bins = [Bin(0.2, 0.5, 0.0, 1.0, 1, 1), Bin(0.9, 0.8, 0.0, 1.0, 4, 2)]
    assert expected_error(bins) == pytest.approx((1 * 0.3 + 4 * 0.1) / 5)
    assert expected_error([Bin(0.75, 1.0, 0.0, 1.0, 1, 1)]) == 0.25
