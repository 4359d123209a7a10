"""Intervals of accuracy differences that hold for all candidates together.

Of nine candidates the best on a sample looks better than it is: among several single 95% intervals, a miss
is frequent. These intervals are wider, so that all differences to a candidate hold together in 95% of
samples. They are the bootstrap's max-t, as in Dunnett's comparisons with a control and Hsu's comparisons with
the best: each difference is divided by its standard error, and the 95% quantile of the largest over the draws
replaces 1.96.

No interval is narrower than that of the single difference, whose least reach covers cases that the sample
lacks (`mirl_core.tasks.resampling`): candidates that agree on all of 50 questions may differ by 7 points.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mirl_core.tasks.resampling import Estimate, Resampling

__all__ = ["joint_gains"]

Array = npt.NDArray[np.float64]
_CONFIDENCE = 0.95


def joint_gains(accuracies: Mapping[str, Array], resampling: Resampling) -> dict[str, dict[str, Estimate]]:
    """Return for each candidate the gain of every other candidate over it, with joint 95% intervals; shares.

    `joint_gains(…)[a][b]` is the accuracy of b minus that of a. All intervals of an a hold together.

    Args:
        accuracies: candidate → share of right draws: [questions].
        resampling: of these questions, in their order.
    """
    deviations: dict[tuple[str, str], Array] = {}
    for a, b in combinations(accuracies, 2):
        moved = resampling.deviations(accuracies[b] - accuracies[a])
        deviations[a, b], deviations[b, a] = moved, -moved
    return {name: _over(name, accuracies, deviations, resampling) for name in accuracies}


def _over(
    control: str,
    accuracies: Mapping[str, Array],
    deviations: Mapping[tuple[str, str], Array],
    resampling: Resampling,
) -> dict[str, Estimate]:
    others = [name for name in accuracies if name != control]
    errors = {name: float(deviations[control, name].std()) for name in others}
    scaled = [np.abs(deviations[control, name]) / errors[name] for name in others if errors[name] > 0]
    # Candidates that answer every question alike have no error, and no part in the family.
    reach = float(np.quantile(np.max(scaled, axis=0), _CONFIDENCE)) if scaled else 0.0
    gains = {}
    for name in others:
        single = resampling.difference(accuracies[name], accuracies[control])
        half = reach * errors[name]
        low, high = min(single.low, single.mean - half), max(single.high, single.mean + half)
        gains[name] = Estimate(single.mean, low, high, single.n)
    return gains
