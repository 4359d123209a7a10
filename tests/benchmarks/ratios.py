"""Ratios of paired rounds: geometric mean, interval, spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean of a ratio over rounds."""

    mean: float
    low: float
    high: float
    """95% interval of the mean: Student's t on the logarithms."""
    smallest: float
    largest: float
    rounds: int

    def __str__(self) -> str:
        span = f"{self.smallest:.3f} to {self.largest:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}], single rounds {span}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """`ours` over `theirs`, round by round; both positive, at least two rounds."""
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"ratios need at least two rounds of both, not {len(ours)} and {len(theirs)}")
    from scipy.stats import t

    logs = np.log(np.asarray(ours, float)) - np.log(np.asarray(theirs, float))
    half = float(t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    mean = float(logs.mean())
    bounds = (np.exp(value) for value in (mean, mean - half, mean + half, logs.min(), logs.max()))
    return Ratio(*(float(value) for value in bounds), len(logs))
