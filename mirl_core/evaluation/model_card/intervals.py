"""95% intervals of a mean over cases that share pictures and glyphs.

Resampling scenes alone would pretend that a glyph seen in nine scenes is nine glyphs. The variance here is
the one that resampling scenes and glyphs together has in the limit: every pair of cases that shares a scene
or a glyph counts as dependent (multi-way cluster-robust variance, after Cameron, Gelbach and Miller, 2011).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(values: Sequence[float], clusters: Sequence[Sequence[str]]) -> Estimate:
    """Mean of `values`, each in its clusters; a share's interval stays within 0..1.

    The clustered variance is never taken smaller than the independent one, and a share of 0 or 1 gets
    Wilson's interval.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    members: dict[str, list[int]] = defaultdict(list)
    for i, names in enumerate(clusters):
        for name in set(names):
            members[name].append(i)
    pairs = {(a, b) for group in members.values() for a in group for b in group if a != b}
    residual = x - mean
    own = float((residual**2).sum())
    shared = float(sum(residual[a] * residual[b] for a, b in pairs))
    variance = max(own, own + shared) / n**2
    z = 1.96
    # Wilson's form, with the effective sample size that the clustered variance implies.
    effective = n * own / max(own, own + shared) if own > 0 else float(n)
    if not np.isin(x, (0.0, 1.0)).all():
        half = z * math.sqrt(variance)
        return Estimate(mean, mean - half, mean + half, n)
    centre = (mean + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(mean * (1 - mean) / effective + z * z / (4 * effective**2))
    return Estimate(mean, max(0.0, centre - half), min(1.0, centre + half), n)
