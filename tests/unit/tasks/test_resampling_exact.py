"""Resampling against closed forms: Wilson by scipy, the Skellam distribution, Kish's effective number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial, norm, skellam

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
    interval = Resampling([("one scene",)] * n).proportion(values)
    theirs = binomtest(right, n).proportion_ci(method="wilson")
    assert (interval.mean, interval.n) == (right / n, n)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)


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
    interval = Resampling(clusters).proportion([value] * len(clusters))
    expected = wilson(value, effective)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-9)
    assert (interval.low, interval.high)[int(value)] == value
    assert interval.mean == value


def test_equal_shares_within_scenes_count_scenes_too() -> None:
    interval = Resampling([("x",), ("x",), ("y",), ("y",)]).proportion([0.25] * 4)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.25, 2.0), abs=1e-9)


def test_a_clustered_proportion_has_its_design_effect() -> None:
    """Forty scenes of two equal cases: Wilson at half the cases."""
    values = np.repeat([1.0] * 10 + [0.0] * 30, 2)
    clusters = [(f"scene-{place // 2}",) for place in range(80)]
    interval = Resampling(clusters, draws=40_000).proportion(values)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.25, 40.0), rel=0.02)


def test_two_cases_move_by_the_skellam_distribution() -> None:
    """The mean of 0 and 1 moves by the difference of two Poisson(1) counts, over 4."""
    resampling = Resampling([("x",), ("y",)], draws=20_000)
    counts = 4 * resampling.deviations([0.0, 1.0])
    assert counts == pytest.approx(np.round(counts))
    for k in range(-3, 4):
        assert float((counts <= k + 0.5).mean()) == pytest.approx(skellam.cdf(k, 1, 1), abs=0.015)
    interval = resampling.mean([0.0, 1.0])
    assert (interval.low, interval.high) == (
        0.5 + skellam.ppf(0.025, 1, 1) / 4,
        0.5 + skellam.ppf(0.975, 1, 1) / 4,
    )
    assert (interval.low, interval.mean, interval.high, interval.n) == (-0.25, 0.5, 1.25, 2)


def test_a_mean_of_many_has_the_normal_interval() -> None:
    values = np.tile([0.0, 2.0, 7.0, 11.0], 100)
    interval = Resampling([(f"{place}",) for place in range(400)], draws=20_000).mean(values)
    error = float(values.std()) / 20
    assert interval.mean == 5.0
    assert (interval.mean - interval.low, interval.high - interval.mean) == pytest.approx(
        (1.96 * error,) * 2, rel=0.03
    )


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
    interval = Resampling([(), ("0",), (), ("2",)]).proportion([1.0] * 4)
    assert interval.low == pytest.approx(wilson(1.0, 4.0)[0])


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


def alone(n: int) -> list[tuple[str, ...]]:
    return [(f"scene-{place}",) for place in range(n)]


def unseen(n: float) -> float:
    """Clopper and Pearson's upper bound for no success in n."""
    return 1 - 0.025 ** (1 / n)


@pytest.mark.parametrize("n", [1, 2, 8, 20, 1000])
def test_a_difference_without_a_discordant_case_has_clopper_and_pearsons_bound(n: int) -> None:
    bound = binomtest(0, n).proportion_ci(0.95, "exact").high
    interval = Resampling(alone(n), draws=50).difference([1.0] * n, [1.0] * n)
    assert (interval.mean, interval.n) == (0.0, n)
    assert (interval.low, interval.high) == pytest.approx((-bound, bound), rel=1e-9)


def test_cases_of_one_scene_count_once_in_that_bound() -> None:
    in_pairs = Resampling([(f"scene-{place // 2}", f"glyph-{place}") for place in range(16)], draws=50)
    assert in_pairs.independent == 8.0
    assert in_pairs.difference([0.0] * 16, [0.0] * 16).high == pytest.approx(unseen(8))
    uneven = Resampling([("x",), ("x",), ("x",), ("y",)], draws=50)
    assert uneven.independent == 16 / 10
    assert uneven.difference([1.0] * 4, [1.0] * 4).low == pytest.approx(-unseen(1.6))


@pytest.mark.parametrize(("n", "low"), [(5, 1 - 2 * unseen(5)), (2, 1 - 2 * unseen(2)), (1, -0.95)])
def test_equal_differences_leave_room_for_others_between_the_extremes(n: int, low: float) -> None:
    better = Resampling(alone(n), draws=50)
    interval = better.difference([1.0] * n, [0.0] * n)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1.0, low, 1.0))
    back = better.difference([0.0] * n, [1.0] * n)
    assert (back.low, back.high) == pytest.approx((-1.0, -low))
    half = better.difference([0.75] * n, [0.25] * n)
    assert (half.low, half.high) == pytest.approx((0.5 - 1.5 * unseen(n), 0.5 + 0.5 * unseen(n)))


def test_one_discordant_case_of_eight_reaches_as_far_as_none_would() -> None:
    a, b = [1.0] * 8, [1.0] * 7 + [0.0]
    resampling = Resampling(alone(8))
    interval, bootstrap = resampling.difference(a, b), resampling.mean(np.subtract(a, b))
    assert interval.mean == 0.125
    assert interval.low == pytest.approx(0.125 - 1.125 * unseen(8))
    assert interval.high == pytest.approx(0.125 + 0.875 * unseen(8))
    assert interval.low < bootstrap.low < bootstrap.high < interval.high


def test_many_discordant_cases_have_the_bootstraps_interval() -> None:
    a, b = np.ones(400), np.array([0.0] * 30 + [1.0] * 370)
    resampling = Resampling(alone(400))
    assert resampling.difference(a, b) == resampling.mean(a - b)


def test_a_difference_is_of_shares() -> None:
    two = Resampling(alone(2), draws=50)
    for a, b in (([1.1, 0.0], [0.0, 0.0]), ([0.0, 0.0], [-0.1, 0.0])):
        for method in (two.difference, two.difference_p):
            with pytest.raises(ValueError, match="within 0"):
                method(a, b)
    # The last bit of an interpolated share is no mistake.
    assert two.difference([1.0 + 1e-12, 1.0], [1.0, 1.0]).mean == pytest.approx(0.0)


def coverages(n: int, only_a: float, only_b: float, cases: int = 1) -> tuple[float, float]:
    """Exact coverage of the difference's interval and of the bootstrap's, of n scenes of `cases` alike cases.

    The sum over all numbers of scenes that only a, or only b, has right of their probability where the
    interval holds the truth.
    """
    resampling = Resampling([(f"scene-{place // cases}",) for place in range(n * cases)])
    held = plain = 0.0
    for a_alone, b_alone in ((i, j) for i in range(n + 1) for j in range(n + 1 - i)):
        rest = n - a_alone - b_alone
        a = np.repeat([1.0] * a_alone + [0.0] * b_alone + [1.0] * rest, cases)
        b = np.repeat([0.0] * a_alone + [1.0] * b_alone + [1.0] * rest, cases)
        chance = multinomial.pmf((a_alone, b_alone, rest), n, (only_a, only_b, 1 - only_a - only_b))
        interval, bootstrap = resampling.difference(a, b), resampling.mean(a - b)
        held += chance * (interval.low <= only_a - only_b + 1e-9 <= interval.high + 2e-9)
        plain += chance * (bootstrap.low <= only_a - only_b + 1e-9 <= bootstrap.high + 2e-9)
    return held, plain


@pytest.mark.parametrize(
    ("n", "only_a", "only_b", "cases"),
    [
        (4, 0.3, 0.1, 1),
        (8, 0.02, 0.0, 1),
        (8, 0.1, 0.0, 1),
        (8, 0.3, 0.1, 1),
        (8, 0.9, 0.0, 1),
        (8, 0.2, 0.0, 3),
        (20, 0.05, 0.0, 1),
        (20, 0.2, 0.0, 1),
    ],
)
def test_intervals_of_samples_with_few_discordant_cases_cover_the_truth(
    n: int, only_a: float, only_b: float, cases: int
) -> None:
    held, plain = coverages(n, only_a, only_b, cases)
    assert held >= 0.95
    # The bootstrap alone does not: the check can fail.
    assert plain < 0.94


@pytest.mark.parametrize(("n", "only_a", "only_b"), [(8, 0.5, 0.5), (20, 0.2, 0.1), (20, 0.5, 0.2)])
def test_with_many_discordant_cases_it_is_the_bootstrap_that_covers(
    n: int, only_a: float, only_b: float
) -> None:
    held, plain = coverages(n, only_a, only_b)
    assert 0.92 <= held < 0.95
    assert plain <= held


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([1.0] * 8, [1.0] * 8, 1.0),
        # The sign test: 2 / 2^8.
        ([1.0] * 8, [0.0] * 8, 2 / 2**8),
        ([0.0] * 8, [1.0] * 8, 2 / 2**8),
        ([1.0] * 200, [0.0] * 200, 1 / 2001),
        ([1.0, 0.0], [0.0, 0.0], 2 / 1.5**2),
        ([1.0, 0.0], [0.0, 1.0], 1.0),
    ],
)
def test_p_values_of_hand_counted_cases(a: list[float], b: list[float], p: float) -> None:
    assert Resampling(alone(len(a))).difference_p(a, b) == pytest.approx(p, rel=1e-9)


def test_p_values_of_many_cases_are_the_normal_tests() -> None:
    """60 against 40 discordant of 1000: z = 20 / √(100 − 20² / 1000)."""
    a = np.array([1.0] * 60 + [0.0] * 40 + [1.0] * 900)
    b = np.array([0.0] * 60 + [1.0] * 40 + [1.0] * 900)
    z = 20 / np.sqrt(100 - 20**2 / 1000)
    resampling = Resampling(alone(1000), draws=15_000)
    assert resampling.difference_p(a, b) == pytest.approx(2 * norm.sf(z), rel=0.1)
    assert resampling.difference_p(a, b) == resampling.difference_p(b, a)


def test_p_values_respect_scenes() -> None:
    """The same answers, eight cases a scene: 60 : 40 of twelve scenes is next to nothing."""
    a, b = np.array([1.0] * 56 + [0.0] * 40), np.array([0.0] * 56 + [1.0] * 40)
    single = Resampling(alone(96)).difference_p(a, b)
    in_scenes = Resampling([(f"scene-{place // 8}",) for place in range(96)]).difference_p(a, b)
    assert single == pytest.approx(2 * norm.sf(16 / np.sqrt(96 - 16**2 / 96)), abs=0.02)
    assert in_scenes == pytest.approx(2 * norm.sf(2 / np.sqrt(12 - 2**2 / 12)), abs=0.05)


def test_p_values_and_intervals_agree() -> None:
    rng = np.random.default_rng(7)
    excluded = 0
    for n in (6, 12, 40):
        resampling = Resampling(alone(n))
        for _ in range(100):
            kind = rng.choice(3, n, p=(0.45, 0.1, 0.45))
            a, b = (kind == 0).astype(float), (kind == 1).astype(float)
            p, interval = resampling.difference_p(a, b), resampling.difference(a, b)
            outside = not interval.low <= 0 <= interval.high
            excluded += outside
            # Near 0.05 a quantile between two draws may lie on either side.
            assert outside if p < 0.045 else not outside or p < 0.055
    assert 60 < excluded < 240


def test_no_cases_have_no_p_value() -> None:
    assert np.isnan(Resampling([]).difference_p([], []))


@pytest.mark.parametrize(("least", "most", "value"), [(0.0, 1.0, 0.25), (-1.0, 1.0, 0.0), (0.0, 16.0, 3.0)])
@pytest.mark.parametrize("n", [1, 2, 8, 200])
def test_equal_values_have_the_reach_of_cases_that_were_not_seen(
    least: float, most: float, value: float, n: int
) -> None:
    interval = Resampling([(f"{place}",) for place in range(n)]).bounded([value] * n, least, most)
    unseen = 1 - 0.025 ** (1 / n)
    assert (interval.mean, interval.n) == (value, n)
    assert interval.low == pytest.approx(value - unseen * (value - least))
    assert interval.high == pytest.approx(value + unseen * (most - value))


def test_bounded_is_the_percentile_interval_where_that_is_wider() -> None:
    values = np.tile([0.1, 0.3, 0.6, 0.9], 50)
    resampling = Resampling([(f"{place}",) for place in range(200)])
    drawn, interval = resampling.mean(values), resampling.bounded(values, 0.0, 1.0)
    assert (interval.low, interval.high) == (drawn.low, drawn.high)
    with pytest.raises(ValueError, match=r"within 0\.\.0\.5"):
        resampling.bounded(values, 0.0, 0.5)
    nothing = Resampling([]).bounded([], 0.0, 1.0)
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()


def test_one_scene_gives_no_interval_of_an_unbounded_mean() -> None:
    interval = Resampling([("x",), ("x",)]).mean([3.0, 5.0])
    assert (interval.mean, interval.n) == (4.0, 2)
    assert np.isnan([interval.low, interval.high]).all()
