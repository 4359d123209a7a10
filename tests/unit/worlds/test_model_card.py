"""The report's own arithmetic: cases, intervals, calibration."""

from __future__ import annotations

import numpy as np
import pytest

from mirl_core.evaluation.model_card.cases import DIGITS_SPLITS, Turn, digits_cases, take_apart
from mirl_core.evaluation.model_card.intervals import estimate
from mirl_core.evaluation.model_card.measures import calibrate, reliability


@pytest.mark.parametrize("split", DIGITS_SPLITS)
def test_cases_carry_a_right_and_a_wrong_description(split: str) -> None:
    for case in digits_cases(split, "dev", 60):
        assert case.judge(case.right_description)
        assert case.implied(case.right_description) == case.answer
        assert not case.judge(case.wrong_description)
        assert case.implied(case.wrong_description) == case.wrong_answer != case.answer


def test_cases_are_the_same_every_time() -> None:
    first, again = (digits_cases("digits-iid", "dev", 20) for _ in range(2))
    assert [(c.question, c.wrong_description) for c in first] == [
        (c.question, c.wrong_description) for c in again
    ]


def test_a_turn_is_taken_apart_or_not_at_all() -> None:
    assert take_apart("<description>a</description><think>b</think><answer>c</answer>") == Turn("a", "b", "c")
    assert take_apart("<description>a</description><think>b</think>") == Turn(None, None, None)


def test_independent_cases_get_wilsons_interval() -> None:
    got = estimate([1.0] * 80 + [0.0] * 20, [(str(i),) for i in range(100)])
    assert (round(got.mean, 3), round(got.low, 3), round(got.high, 3), got.n) == (0.8, 0.711, 0.867, 100)


def test_cases_that_share_a_glyph_widen_the_interval() -> None:
    values = [1.0] * 80 + [0.0] * 20
    alone = estimate(values, [(str(i),) for i in range(100)])
    shared = estimate(values, [(str(i), f"glyph-{i // 5}") for i in range(100)])
    assert shared.high - shared.low > 1.8 * (alone.high - alone.low)


def test_the_interval_covers_when_glyphs_decide() -> None:
    """Errors that hang on the glyph alone: 95% intervals cover the truth about as often as they say."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        easy = rng.random(40) < 0.7
        glyph = rng.integers(40, size=240)
        got = estimate(
            easy[glyph].astype(float).tolist(), [(str(i), f"glyph-{g}") for i, g in enumerate(glyph)]
        )
        covered += got.low <= 0.7 <= got.high
    assert covered >= 180


def test_no_cases_have_no_mean() -> None:
    assert np.isnan(estimate([], []).mean)


def test_calibrated_probabilities_have_no_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=20000)
    truth = (rng.random(20000)[:, None] > p.cumsum(1)).sum(1)
    figures = calibrate(p, truth, [(str(i),) for i in range(len(p))])
    assert figures.expected_error < 0.01
    assert sum(b.n for b in reliability(p, truth)) == p.size
    # The most likely value is right about as often as it claims.
    assert abs(figures.right_top.mean - figures.mean_confidence) < 0.01
