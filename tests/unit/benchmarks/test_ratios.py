"""Ratios of paired rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.benchmarks.ratios import ratio


def test_a_ratio_of_pairs_is_free_of_what_both_share() -> None:
    shared = [1.0, 5.0, 0.2, 40.0]
    estimate = ratio([0.98 * value for value in shared], shared)
    assert estimate.mean == pytest.approx(0.98)
    assert (estimate.low, estimate.high) == (pytest.approx(0.98), pytest.approx(0.98))


def test_mean_is_geometric_and_spread_is_reported() -> None:
    estimate = ratio([2.0, 1.0], [1.0, 2.0])
    assert estimate.mean == pytest.approx(1.0)
    assert (estimate.smallest, estimate.largest, estimate.rounds) == (0.5, 2.0, 2)
    # Student's t with one degree of freedom: 12.706 standard errors of log 2.
    assert math.log(estimate.high) == pytest.approx(12.706 * math.log(2), rel=1e-3)


def test_the_interval_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        theirs = rng.lognormal(0, 0.5, 8)
        ours = 1.02 * theirs * rng.lognormal(0, 0.05, 8)
        estimate = ratio(ours.tolist(), theirs.tolist())
        covered += estimate.low <= 1.02 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98


def test_one_round_is_too_few() -> None:
    with pytest.raises(ValueError, match="two rounds"):
        ratio([1.0], [1.0])
