"""The fit against scikit-learn's logistic regression on Platt's targets, and its figures by hand."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from mirl_core.config import Calibration
from mirl_core.evaluation.calibration.confidence import FEWEST, CalibrationRow, Fitted, Votes, fit

Array = npt.NDArray[np.float64]


def made_up(questions: int, draws: int, seed: int, rate: float = 0.2) -> Votes:
    """Votes of which some `rate` are right, more where the share is high."""
    rng = np.random.default_rng(seed)
    share, distinct = rng.uniform(0.2, 1, (questions, draws)), rng.uniform(0.1, 1, (questions, draws))
    right = (rng.random(share.shape) < rate * 2 * share).astype(np.float64)
    return Votes(("world",) * questions, share, distinct, -share, share, 0 * share, right)


def scikit_learns(votes: Votes, positive: float, negative: float) -> tuple[float, ...]:
    """The weights that scikit-learn finds for targets `positive` and `negative`, a question weighing 1.

    It takes no soft targets: each vote stands there twice, as right and as wrong, weighed by its target.
    """
    voted = np.isfinite(votes.share)
    weights = (voted / np.maximum(voted.sum(axis=1, keepdims=True), 1))[voted]
    features = np.stack([votes.share[voted], votes.distinct[voted]], axis=1)
    targets = np.where(votes.right[voted] > 0, positive, negative)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    model.fit(
        np.concatenate([features, features]),
        np.repeat([1, 0], len(features)),
        sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]),
    )
    return (float(model.intercept_[0]), *map(float, model.coef_[0]))


def weights_of(fitted: Fitted) -> tuple[float, ...]:
    assert fitted.calibration is not None
    return fitted.calibration.intercept, fitted.calibration.vote_share, fitted.calibration.distinct_share


def test_targets_are_platts() -> None:
    """Of few votes the targets matter: (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2), not 1 and 0."""
    votes = made_up(FEWEST, 1, seed=4)
    right = int(votes.right.sum())
    assert 5 < right < 15
    expected = scikit_learns(votes, (right + 1) / (right + 2), 1 / (FEWEST - right + 2))
    assert weights_of(fit(votes)) == pytest.approx(expected, abs=0.006)
    hard = scikit_learns(votes, 1.0, 0.0)
    assert max(abs(theirs - ours) for theirs, ours in zip(hard, expected, strict=True)) > 0.1


def test_targets_and_weights_count_questions() -> None:
    """Three draws of each question, some without a vote: N₊ and N₋ are shares of questions, summed."""
    votes = made_up(60, 3, seed=5)
    votes.share[:20, 1:] = np.nan
    voted = np.isfinite(votes.share)
    by_question = np.where(voted, votes.right, 0).sum(axis=1) / voted.sum(axis=1)
    right = float(by_question.sum())
    expected = scikit_learns(votes, (right + 1) / (right + 2), 1 / (60 - right + 2))
    assert weights_of(fit(votes)) == pytest.approx(expected, abs=0.006)


def test_fifty_questions_are_enough_and_no_fewer() -> None:
    votes = made_up(50, 1, seed=4)
    assert fit(votes).calibration is not None
    one_silent = replace(votes, share=np.where(np.arange(50)[:, None] == 7, np.nan, votes.share))
    assert fit(one_silent).left_out == "49 voted questions are too few; it takes 50"
    assert fit(one_silent).rows == ()


def test_rows_are_means_and_errors_before_and_after() -> None:
    """Two data sets that voted and one that did not; shares of 0.6 and 0.9 only, so two bins each."""
    few, many = 0.6, 0.9
    share = np.array([few] * 30 + [many] * 30 + [many] * 20 + [np.nan] * 5)[:, None]
    hits = np.array([1.0] * 6 + [0.0] * 24 + [1.0] * 18 + [0.0] * 12 + [1.0] * 12 + [0.0] * 8 + [0.0] * 5)
    right = np.where(np.isfinite(share), hits[:, None], np.nan)
    ones = np.ones((85, 1))
    votes = Votes(("a",) * 60 + ("b",) * 20 + ("c",) * 5, share, ones, -ones, ones, 0 * ones, right)
    fitted = fit(votes)
    assert [row.data for row in fitted.rows] == ["a", "b", "all"]
    # Right: 6 of 30 at 0.6, 30 of 50 at 0.9. The fit meets Platt's targets at both shares,
    # but for weights rounded to two decimals.
    hit, miss = 37 / 38, 1 / 46
    low, high = (6 * hit + 24 * miss) / 30, (30 * hit + 20 * miss) / 50
    a, b, everything = fitted.rows
    assert astuple(a) == (
        "a",
        60,
        24 / 60,
        pytest.approx(0.75),
        pytest.approx((0.4 + 0.3) / 2),
        pytest.approx((low + high) / 2, abs=4e-3),
        pytest.approx((abs(low - 0.2) + abs(high - 0.6)) / 2, abs=4e-3),
    )
    assert astuple(b) == (
        "b",
        20,
        0.6,
        pytest.approx(0.9),
        pytest.approx(0.3),
        pytest.approx(high, abs=4e-3),
        pytest.approx(abs(high - 0.6), abs=4e-3),
    )
    assert (everything.votes, everything.right) == (80, 36 / 80)
    assert everything.share_error == pytest.approx((30 * 0.4 + 50 * 0.3) / 80)


def test_one_data_set_is_not_summed_up_again() -> None:
    assert [row.data for row in fit(made_up(60, 1, seed=5)).rows] == ["world"]


def test_a_fit_reads_as_json() -> None:
    row = CalibrationRow("a", 60, 0.4, 0.75, 0.35, 0.41, 0.01)
    fitted = Fitted(
        Calibration(
            intercept=-1.5, vote_share=2.25, distinct_share=0.5, least_logprob=-0.5, most_unusable=0.25
        ),
        rows=(row,),
    )
    assert fitted.to_json() == {
        "calibration": {
            "intercept": -1.5,
            "vote_share": 2.25,
            "distinct_share": 0.5,
            "least_logprob": -0.5,
            "least_mi": None,
            "most_unusable": 0.25,
        },
        "left_out": "",
        "rows": [
            {
                "data": "a",
                "votes": 60,
                "right": 0.4,
                "share": 0.75,
                "share_error": 0.35,
                "confidence": 0.41,
                "confidence_error": 0.01,
            }
        ],
    }
    assert Fitted(None, "too few").to_json() == {"calibration": None, "left_out": "too few", "rows": []}
