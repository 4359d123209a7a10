"""Resampling against closed forms: Wilson by scipy, the Skellam distribution, Kish's effective number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, skellam

from mirl_core.tasks.resampling import Estimate, Resampling


def wilson(share: float, n: float) -> tuple[float, float]:
    """The roots p of (share − p)² = z² p (1 − p) / n."""
    z2 = 1.959964**2
    roots = np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2])
    return min(roots), max(roots)


@pytest.mark.parametrize(("right", "n"), [(1, 4), (3, 4), (7, 9), (20, 50)])
def test_a_proportion_of_cases_that_cancel_within_scenes_is_wilsons(right: int, n: int) -> None:
    """Every scene's residuals sum to nothing: the floor, the simple random sample's variance, is exact."""
    values = np.array([1.0] * right + [0.0] * (n - right))
    found = Resampling([("one scene",)] * n).proportion(values)
    theirs = binomtest(right, n).proportion_ci(method="wilson")
    assert (found.mean, found.n) == (right / n, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(
    ("sizes", "effective"),
    [
        ((1,), 1.0),
        ((1, 1), 2.0),
        ((3, 2, 1), 36 / 14),
        ((4, 4, 4, 4, 4), 5.0),
        ((1,) * 10, 10.0),
        ((1,) * 20, 20.0),
    ],
)
def test_equal_values_count_kishs_effective_number(
    value: float, sizes: tuple[int, ...], effective: float
) -> None:
    clusters = [(f"scene-{number}",) for number, size in enumerate(sizes) for _ in range(size)]
    found = Resampling(clusters).proportion([value] * len(clusters))
    expected = wilson(value, effective)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert (found.low, found.high)[int(value)] == value
    assert found.mean == value


def test_equal_shares_within_scenes_count_scenes_too() -> None:
    found = Resampling([("x",), ("x",), ("y",), ("y",)]).proportion([0.25] * 4)
    assert (found.low, found.high) == pytest.approx(wilson(0.25, 2.0), abs=1e-9)


def test_a_clustered_proportion_has_its_design_effect() -> None:
    """Forty scenes of two equal cases: Wilson at half the cases."""
    values = np.repeat([1.0] * 10 + [0.0] * 30, 2)
    clusters = [(f"scene-{place // 2}",) for place in range(80)]
    found = Resampling(clusters, draws=40_000).proportion(values)
    assert (found.low, found.high) == pytest.approx(wilson(0.25, 40.0), rel=0.02)


def test_two_cases_move_by_the_skellam_distribution() -> None:
    """The mean of 0 and 1 moves by the difference of two Poisson(1) counts, over 4."""
    resampling = Resampling([("x",), ("y",)], draws=20_000)
    counts = 4 * resampling.deviations([0.0, 1.0])
    assert counts == pytest.approx(np.round(counts))
    for k in range(-3, 4):
        assert float((counts <= k + 0.5).mean()) == pytest.approx(skellam.cdf(k, 1, 1), abs=0.015)
    found = resampling.mean([0.0, 1.0])
    assert (found.low, found.high) == (0.5 + skellam.ppf(0.025, 1, 1) / 4, 0.5 + skellam.ppf(0.975, 1, 1) / 4)
    assert (found.low, found.mean, found.high, found.n) == (-0.25, 0.5, 1.25, 2)


def test_a_mean_of_many_has_the_normal_interval() -> None:
    values = np.tile([0.0, 2.0, 7.0, 11.0], 100)
    found = Resampling([(f"{place}",) for place in range(400)], draws=20_000).mean(values)
    error = float(values.std()) / 20
    assert found.mean == 5.0
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((1.96 * error,) * 2, rel=0.03)


def test_a_glyph_that_explains_everything_adds_its_own_variance() -> None:
    """Ten glyphs of ten scenes each, all of a glyph alike: Var = Σ (glyph sums)² / n², scenes included."""
    values = np.repeat(np.arange(10.0), 10)
    clusters = [(f"scene-{place}", f"glyph-{place // 10}") for place in range(100)]
    residual = values - 4.5
    scenes, glyphs = float(residual @ residual), float(((10 * (np.arange(10) - 4.5)) ** 2).sum())
    # Cameron, Gelbach & Miller: scenes + glyphs − scenes x glyphs.
    expected = (scenes + glyphs - scenes) / 100**2
    drawn = Resampling(clusters, draws=40_000).deviations(values)
    assert float(drawn.var()) == pytest.approx(expected, rel=0.04)


def test_glyphs_whose_scenes_cancel_add_nothing() -> None:
    values = [1.0, 0.0] * 20
    with_glyphs = Resampling([(f"{place}", f"glyph-{place // 2}") for place in range(40)], draws=50)
    without = Resampling([(f"{place}",) for place in range(40)], draws=50)
    assert with_glyphs.deviations(values) == pytest.approx(without.deviations(values))


def test_cases_of_a_scene_share_its_glyphs_once() -> None:
    """Two cases a scene with one glyph of their own: the glyph explains no more than the scene does."""
    values = [1.0, 1.0, 0.0, 0.0] * 10
    named = Resampling([(f"{place // 2}", f"glyph-{place // 2}") for place in range(40)], draws=50)
    plain = Resampling([(f"{place // 2}",) for place in range(40)], draws=50)
    assert named.deviations(values) == pytest.approx(plain.deviations(values))


def test_a_case_without_clusters_is_no_scene_that_has_a_name() -> None:
    found = Resampling([(), ("0",), (), ("2",)]).proportion([1.0] * 4)
    assert found.low == pytest.approx(wilson(1.0, 4.0)[0])


def test_there_are_2000_draws_of_seed_0_and_1_is_the_least() -> None:
    clusters, values = [("x",), ("y",)], [0.0, 1.0]
    drawn = Resampling(clusters).deviations(values)
    assert drawn.shape == (2000,)
    assert drawn.tolist() == Resampling(clusters, 2000, 0).deviations(values).tolist()
    # In blocks, and with a last block that is not full.
    assert Resampling(clusters, 201).deviations(values).shape == (201,)
    assert len(Resampling(clusters, 1).deviations(values)) == 1
    assert Resampling([], 3).deviations([]).tolist() == [0.0] * 3


@pytest.mark.parametrize("values", [[-0.01, 0.5], [0.5, 1.01]])
def test_a_proportion_is_of_values_within_0_and_1(values: list[float]) -> None:
    with pytest.raises(ValueError, match="within 0"):
        Resampling([("x",), ("y",)]).proportion(values)


def test_an_estimate_reads_in_percent() -> None:
    assert str(Estimate(0.5, 0.25, 0.875, 3)) == "50.0 [25.0, 87.5]"
