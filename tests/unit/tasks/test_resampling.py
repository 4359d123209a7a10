"""Intervals that know about shared scenes and glyphs, against closed forms and against simulated truths."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from mirl_core.tasks.resampling import Estimate, Resampling

Array = npt.NDArray[np.float64]


def alone(n: int) -> list[tuple[str, ...]]:
    return [(f"scene-{i}",) for i in range(n)]


def crossed(rng: np.random.Generator, scenes: int, cases: int, glyphs: int) -> list[tuple[str, ...]]:
    """`cases` questions on every scene, each scene with one to three glyphs of a common stock."""
    drawn = [rng.choice(glyphs, size=rng.integers(1, 4), replace=False) for _ in range(scenes)]
    return [(f"scene-{i}", *(f"glyph-{g}" for g in of)) for i, of in enumerate(drawn) for _ in range(cases)]


def robust_variance(values: Sequence[float], clusters: Sequence[Sequence[str]]) -> float:
    """Cameron, Gelbach & Miller's form: two cases count by the product of their residuals, once if they share
    the scene, else once for each glyph that they share."""
    r = np.asarray(values) - np.mean(values)
    meet = np.array([[a[0] == b[0] or len({*a[1:]} & {*b[1:]}) for b in clusters] for a in clusters])
    return float(r @ meet.astype(float) @ r) / len(r) ** 2


def width(e: Estimate) -> float:
    return e.high - e.low


@pytest.mark.parametrize("cases", [1, 2])
def test_the_draws_have_the_cluster_robust_variance(cases: int) -> None:
    rng = np.random.default_rng(1)
    clusters = crossed(rng, 150, cases, 30)
    hard, odd = rng.normal(size=30), np.repeat(rng.normal(size=150), cases)
    read = np.array([sum(hard[int(g.removeprefix("glyph-"))] for g in names[1:]) for names in clusters])
    values = (read + odd + rng.normal(size=len(clusters))).tolist()
    drawn = Resampling(clusters, draws=20_000, seed=3).deviations(values)
    # The standard error of a variance over 20,000 draws is about 1%.
    assert float(drawn.var()) == pytest.approx(robust_variance(values, clusters), rel=0.05)
    assert abs(float(drawn.mean())) < 4 * float(drawn.std()) / math.sqrt(20_000)


def test_independent_cases_get_wilsons_interval() -> None:
    got = [Resampling(alone(100), seed=s).proportion([1.0] * 80 + [0.0] * 20) for s in range(20)]
    assert all(e.mean == 0.8 and e.n == 100 for e in got)
    assert float(np.mean([e.low for e in got])) == pytest.approx(0.711, abs=0.004)
    assert float(np.mean([e.high for e in got])) == pytest.approx(0.867, abs=0.004)


def test_glyphs_that_explain_nothing_hardly_widen_an_interval() -> None:
    rng = np.random.default_rng(5)
    n, mean = 900, 0.6
    binomial = 2 * 1.96 * math.sqrt(mean * (1 - mean) / n)
    proportions, percentiles = [], []
    for seed in range(30):
        resampling = Resampling(crossed(rng, n, 1, 200), draws=1000, seed=seed)
        values = (rng.random(n) < mean).astype(float)
        proportions.append(width(resampling.proportion(values)))
        percentiles.append(width(resampling.mean(values)))
    # The floors (never below the simple random sample, never less than no glyphs) leave a few percent.
    assert 0.99 < float(np.mean(proportions)) / binomial < 1.06
    assert 0.98 < float(np.mean(percentiles)) / binomial < 1.06


@cache
def _simulated() -> list[tuple[list[tuple[str, ...]], Array]]:
    """200 data sets, clusters and values; scenes and glyphs both decide."""
    rng = np.random.default_rng(11)
    drawn = []
    for _ in range(200):
        scenes, cases, glyphs = 150, 2, 60
        clusters = crossed(rng, scenes, cases, glyphs)
        hard = dict(zip((f"glyph-{g}" for g in range(glyphs)), rng.normal(0, 0.6, glyphs), strict=True))
        odd = np.repeat(rng.normal(0, 0.6, scenes), cases)
        # A probit threshold gives right or wrong; the truth is its mean over all scenes, glyphs and sizes.
        latent = np.array([sum(hard[g] for g in names[1:]) for names in clusters]) + odd
        drawn.append((clusters, (latent + rng.normal(size=len(clusters)) + 0.5 > 0).astype(float)))
    return drawn


@cache
def _covered(cut: int | None, kind: str) -> float:
    """Share of simulated data sets whose interval, by the first `cut` names of a case, holds the truth."""
    hits = 0
    for seed, (clusters, values) in enumerate(_simulated()):
        resampling = Resampling([names[:cut] for names in clusters], draws=800, seed=seed)
        got = resampling.proportion(values) if kind == "proportion" else resampling.mean(values)
        hits += got.low <= _TRUTH <= got.high
    return hits / 200


_TRUTH = sum(
    0.5 * (1 + math.erf(0.5 / math.sqrt(2 * (1 + 0.6**2 + k * 0.6**2)))) for k in (1, 2, 3)
) / 3  # fmt: skip
"""Mean of P(latent + noise + 0.5 > 0) over one to three glyphs: normal effects add their variances."""


@pytest.mark.parametrize("kind", ["proportion", "mean"])
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str) -> None:
    assert 0.90 <= _covered(None, kind) <= 0.99


def test_without_glyphs_or_without_scenes_they_do_not() -> None:
    """The same check fails for a resampling that leaves either dimension out."""
    assert _covered(1, "mean") < 0.85
    assert _covered(0, "mean") < _covered(1, "mean")


def test_a_shared_glyph_widens_the_interval() -> None:
    values = [1.0] * 80 + [0.0] * 20
    shared = Resampling([(str(i), f"glyph-{i // 5}") for i in range(100)]).proportion(values)
    assert width(shared) > 1.8 * width(Resampling(alone(100)).proportion(values))


def test_a_glyph_named_twice_counts_once() -> None:
    values = [1.0] * 80 + [0.0] * 20
    once = [(str(i), f"glyph-{i // 5}") for i in range(100)]
    twice = [(*names, names[1]) for names in once]
    assert Resampling(twice).mean(values) == Resampling(once).mean(values)


def test_a_case_without_clusters_stands_alone() -> None:
    values = [1.0, 0.0, 1.0, 1.0]
    assert Resampling([()] * 4).mean(values) == Resampling(alone(4)).mean(values)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(2)
    clusters = crossed(rng, 400, 1, 80)
    a = (rng.random(400) < 0.7).astype(float)
    b = np.where(rng.random(400) < 0.05, 1 - a, a)
    resampling = Resampling(clusters)
    # No case differs, so that the interval is Clopper and Pearson's bound on the share of those that do.
    bound = 1 - 0.025 ** (1 / 400)
    assert resampling.difference(a, a) == Estimate(0.0, -bound, bound, 400)
    forth, back = resampling.difference(a, b), resampling.difference(b, a)
    assert forth.mean == pytest.approx(float(a.mean() - b.mean()))
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    # Two methods that differ on one case in twenty are compared far more sharply than each is known.
    assert width(forth) < 0.6 * width(resampling.mean(a))


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.0713), (1.0, 0.9287, 1.0)])
def test_all_right_or_all_wrong_counts_scenes(value: float, low: float, high: float) -> None:
    """50 scenes with two questions each: Wilson at n = 50."""
    clusters = [(f"scene-{i // 2}", f"glyph-{i % 7}") for i in range(100)]
    got = Resampling(clusters).proportion([value] * 100)
    assert (got.low, got.high) == pytest.approx((low, high), abs=1e-3)
    assert got.low <= got.mean <= got.high


def test_shares_between_0_and_1_keep_their_own_variance() -> None:
    """A mean over replays varies less than a coin: its interval is the sharper one."""
    values = [0.45, 0.55] * 200
    assert width(Resampling(alone(400)).proportion(values)) == pytest.approx(2 * 1.96 * 0.05 / 20, rel=0.1)


def test_no_cases_have_no_mean() -> None:
    empty = Resampling([])
    for got in (empty.proportion([]), empty.mean([]), empty.difference([], [])):
        assert got.n == 0
        assert all(math.isnan(x) for x in (got.mean, got.low, got.high))


def test_the_same_seed_gives_the_same_draws() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    first, again, other = (Resampling(alone(5), seed=s).deviations(values).tolist() for s in (1, 1, 2))
    assert first == again != other


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cases need 3 values"):
        Resampling(alone(3)).mean([1.0, 0.0])
    with pytest.raises(ValueError, match="within 0"):
        Resampling(alone(2)).proportion([0.5, 1.5])
    with pytest.raises(ValueError, match="draws"):
        Resampling(alone(2), draws=0)


def test_ten_thousand_cases_take_no_time() -> None:
    rng = np.random.default_rng(0)
    resampling = Resampling(crossed(rng, 9673, 1, 297))
    values = rng.random(9673)
    start = time.process_time()
    resampling.mean(values)
    assert time.process_time() - start < 2.0
