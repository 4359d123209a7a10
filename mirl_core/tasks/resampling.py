"""Intervals of means over cases that share scenes and glyphs: a bootstrap over both.

A thousand scenes drawn from 297 glyphs are not a thousand independent cases: one glyph that is hard to read
spoils every scene it stands in. Resampling cases, or scenes alone, misses that. Scenes and glyphs *cross*
(a scene has several glyphs, a glyph many scenes), so neither can be nested in the other, and both are
resampled: every draw gives each scene and each glyph a Poisson(1) multiplicity (mean 1, variance 1: the
bootstrap's multiplicities for many clusters). With residuals r_c = value - mean, the mean moves by

    sum_c (u_scene(c) - 1) r_c / n  +  s * sum_c sum_{g of c} (v_g - 1) r_c / n

The factor s: a glyph sum also varies where glyphs explain nothing, since each of its cases varies by itself,
and the scenes' part already counts that. With one multiplier for every (scene, glyph) pair, the glyph sum
would have the variance V0; s^2 = max(0, 1 - V0 / Var(glyph sum)) keeps what glyphs explain beyond that. The
variance of the draws is then the multiway cluster-robust "scenes + glyphs - scenes x glyphs" of Cameron,
Gelbach & Miller (2011, Journal of Business & Economic Statistics 29), without letting the glyphs' part fall
below zero. Bootstraps with multipliers per dimension: Owen & Eckles (2012, Annals of Applied Statistics 6),
Davezies, D'Haultfoeuille & Guyonvarch (2021, Annals of Statistics 49); without s they are too wide where a
dimension explains little.

A bootstrap knows of no cases but those at hand: of n equal values it makes an interval of no width, and of
nearly equal ones too narrow an interval. Intervals of values with known extremes, such as paired differences,
therefore have a least reach, from Clopper and Pearson's bound for no success in n (1934, Biometrika 26): with
97.5% confidence, at most a share 1 - 0.025^(1/n) of all cases is of a kind that n independent cases don't
show. Such cases lie anywhere between the extremes. Where nothing bounds the values, a single scene has no
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values = Sequence[float] | Array

_TAILS = (0.025, 0.975)
_Z = 1.959964
_ROUNDING = 1e-9
_BLOCK = 200
"""Draws that are multiplied out at once: bounds the memory, not the result."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Resampling:
    """Bootstrap draws over the clusters of a fixed list of cases, shared by every statistic of these cases.

    `clusters[i]` names case i's scene, then its glyphs; an empty entry makes the case a separate scene. The
    multiplicities are drawn once, [draws, scenes] and [draws, glyphs], so that figures of one list of cases
    are compared under the same draws.
    """

    def __init__(self, clusters: Sequence[Sequence[str]], draws: int = 2000, seed: int = 0) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, not {draws}")
        self.n = len(clusters)
        scenes: dict[str | int, int] = {}
        glyphs: dict[str, int] = {}
        pairs: dict[tuple[int, int], int] = {}
        # A case without clusters has its number as its scene: no name is equal to it.
        self._scene = np.array(
            [scenes.setdefault(names[0] if names else i, len(scenes)) for i, names in enumerate(clusters)],
            np.intp,
        )
        mentions = [
            (case, glyphs.setdefault(name, len(glyphs)))
            for case, names in enumerate(clusters)
            for name in dict.fromkeys(names[1:])
        ]
        self._case = np.array([case for case, _ in mentions], np.intp)
        self._glyph = np.array([glyph for _, glyph in mentions], np.intp)
        self._pair = np.array(
            [pairs.setdefault((int(self._scene[c]), g), len(pairs)) for c, g in mentions], np.intp
        )
        self._sizes = len(scenes), len(glyphs), len(pairs)
        rng = np.random.default_rng(seed)
        # A byte holds any Poisson(1) that will ever be drawn, and 9,673 scenes x 2,000 draws stay at 20 MB.
        self._u = _multiplicities(rng, draws, len(scenes))
        self._v = _multiplicities(rng, draws, len(glyphs))

    @property
    def independent(self) -> float:
        """Number of scenes, as Kish counts them: n^2 / sum of squared scene sizes; 0 without cases."""
        sizes = np.bincount(self._scene)
        return self.n**2 / float(sizes @ sizes) if self.n else 0.0

    def deviations(self, values: Values) -> Array:
        """Return the amounts [draws] that resampling adds to the mean of `values` [cases]."""
        residual = self._checked(values)
        residual = residual - residual.mean() if self.n else residual
        scenes, glyphs, pairs = self._sizes
        by_scene = _sums(self._scene, residual, scenes)
        mentioned = residual[self._case]
        by_glyph = _sums(self._glyph, mentioned, glyphs)
        by_pair = _sums(self._pair, mentioned, pairs)
        # The draws are linear in multipliers of variance 1, so both variances are sums of squares.
        shared, alone = float(by_glyph @ by_glyph), float(by_pair @ by_pair)
        s = math.sqrt(max(0.0, 1.0 - alone / shared)) if shared > 0 else 0.0
        return (_weigh(self._u, by_scene) + s * _weigh(self._v, by_glyph)) / max(self.n, 1)

    def proportion(self, values: Values) -> Estimate:
        """Return the mean of `values` [cases] in 0..1 with Wilson's interval.

        The interval is at the number of independent cases that would give the draws' variance: n over the
        design effect Var(draws) / Var(simple random sample).

        The variance is never taken below the simple random sample's. Where all values are equal they tell
        nothing about how cases depend on each other: every scene then counts as one case (Kish's effective
        number, n^2 / sum of squared scene sizes). The glyphs' share is then unknown and left out, so that
        such an interval may be too narrow.

        Raises:
            ValueError: a value lies outside 0..1.
        """
        x = self._checked(values)
        if self.n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        if x.min() < 0 or x.max() > 1:
            raise ValueError("a proportion's values lie within 0..1")
        mean = float(x.mean())
        if x.min() == x.max():
            effective = self.independent
        else:
            simple = float(x.var()) / self.n
            effective = mean * (1 - mean) / max(simple, float(self.deviations(x).var()))
        shrink = 1 + _Z**2 / effective
        centre = (mean + _Z**2 / (2 * effective)) / shrink
        half = _Z / shrink * math.sqrt(mean * (1 - mean) / effective + _Z**2 / (4 * effective**2))
        # Rounding must not push the interval of a share of 0 or 1 off its own mean.
        return Estimate(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)), self.n)

    def mean(self, values: Values) -> Estimate:
        """Return the mean of `values` [cases], in their unit, with the percentile interval of the draws.

        The bounds are NaN where all cases are of one scene: nothing tells how scenes differ.
        """
        if self.n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        mean = float(self._checked(values).mean())
        if self._sizes[0] == 1:
            return Estimate(mean, math.nan, math.nan, self.n)
        low, high = np.quantile(self.deviations(values), _TAILS)
        return Estimate(mean, mean + float(low), mean + float(high), self.n)

    def bounded(self, values: Values, least: float, most: float) -> Estimate:
        """Return the mean of `values` [cases] that can't leave `least`..`most`, with its interval.

        The interval is the percentile interval of the draws, with the least reach that the module's text
        explains: a share u = 1 - 0.025^(1/n) of unseen cases moves the mean down to mean - u (mean - least)
        or up to mean + u (most - mean). n is the number of scenes (`independent`).

        Raises:
            ValueError: a value lies outside `least`..`most`.
        """
        x = self._checked(values)
        if self.n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        if x.min() < least - _ROUNDING or x.max() > most + _ROUNDING:
            raise ValueError(f"the values lie within {least:g}..{most:g}")
        mean = float(x.mean())
        low, high = (mean + float(end) for end in np.quantile(self.deviations(x), _TAILS))
        unseen = 1 - float(_TAILS[0] ** (1 / self.independent))
        low = min(low, mean - unseen * (mean - least))
        high = max(high, mean + unseen * (most - mean))
        return Estimate(mean, max(least, low), min(most, high), self.n)

    def difference(self, a: Values, b: Values) -> Estimate:
        """Return the mean of a - b over the same cases, shares [cases] each, with its paired interval.

        It is `bounded` by -1 and 1: where no case differs, the interval is [-u, u].

        Raises:
            ValueError: a value lies outside 0..1.
        """
        return self.bounded(self._gap(a, b), -1.0, 1.0)

    def difference_p(self, a: Values, b: Values) -> float:
        """Return the two-sided p-value of no difference of a and b, shares [cases] each; NaN without cases.

        Twice the share of draws in which the difference is 0 or has the other sign; at least 1 / (draws + 1),
        and at least the level at which the least reach of `difference` ends at 0: 2 (1 + |mean|)^-n. Where a
        is right on all n scenes and b on none, the latter is the exact sign test's.

        Raises:
            ValueError: a value lies outside 0..1.
        """
        gap = self._gap(a, b)
        if self.n == 0:
            return math.nan
        mean = float(gap.mean())
        drawn = mean + self.deviations(gap)
        beyond = min(float((drawn <= _ROUNDING).mean()), float((drawn >= -_ROUNDING).mean()))
        least = 2 * (1 + abs(mean)) ** -self.independent
        return float(min(1.0, max(2 * beyond, least, 1 / (len(drawn) + 1))))

    def _gap(self, a: Values, b: Values) -> Array:
        both = np.stack([self._checked(a), self._checked(b)])
        if self.n and (both.min() < -_ROUNDING or both.max() > 1 + _ROUNDING):
            raise ValueError("a difference is of shares: values lie within 0..1")
        return np.asarray(both[0] - both[1])

    def _checked(self, values: Values) -> Array:
        x = np.asarray(values, np.float64)
        if x.shape != (self.n,):
            raise ValueError(f"{self.n} cases need {self.n} values, not an array of shape {x.shape}")
        return x


def _multiplicities(rng: np.random.Generator, draws: int, clusters: int) -> npt.NDArray[np.uint8]:
    drawn = np.empty((draws, clusters), np.uint8)
    for begin in range(0, draws, _BLOCK):
        block = drawn[begin : begin + _BLOCK]
        block[:] = rng.poisson(1.0, block.shape)
    return drawn


def _sums(labels: npt.NDArray[np.intp], values: Array, count: int) -> Array:
    """Return the sum of the values under each of the labels 0..count-1: [count]."""
    return np.bincount(labels, values, count).astype(np.float64)


def _weigh(multiplicities: npt.NDArray[np.uint8], sums: Array) -> Array:
    """Return the sum over clusters of (multiplicity - 1) * sum: [draws]."""
    weighed = np.empty(len(multiplicities))
    for begin in range(0, len(multiplicities), _BLOCK):
        block = multiplicities[begin : begin + _BLOCK].astype(np.float64)
        weighed[begin : begin + _BLOCK] = block @ sums - sums.sum()
    return weighed
