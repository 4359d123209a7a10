"""Rewards of a group to advantages: by how much each reward exceeds the group's mean.

Light to import: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal


def group_advantages(
    rewards: Sequence[float], floor: float, scale: Literal["group", "none"] = "group"
) -> tuple[float, ...]:
    """Return (r − mean) / max(std, floor), with n − 1 in the deviation: GRPO (Shao et al. 2024, equation 3).

    The deviation is floored instead of increased by a small number, so that differences of the size of
    rounding are not scaled up to advantages of ±1, and all other advantages are exactly the formula's. With
    `scale="none"` nothing is divided (Liu et al. 2025, "Dr. GRPO"). Sums are exactly rounded: an advantage
    does not depend on the order of the group.

    Args:
        rewards: of the samples that are compared.
        floor: smallest deviation to divide by, in the unit of the rewards.
        scale: `group` or `none`.

    Returns:
        One advantage per reward; all exactly 0 where the rewards are equal, and in a group of one.

    Raises:
        ValueError: a reward is not finite.
    """
    if not all(map(math.isfinite, rewards)):
        raise ValueError(f"rewards must be finite, got {tuple(rewards)}")
    # A separate case, since a rounded mean of equal numbers need not equal them.
    if not rewards or min(rewards) == max(rewards):
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    deviations = [reward - mean for reward in rewards]
    if scale == "none":
        return tuple(deviations)
    spread = math.sqrt(math.fsum(deviation * deviation for deviation in deviations) / (len(rewards) - 1))
    divisor = max(spread, floor)
    # Without a floor, differences whose squares underflow count as equal rewards.
    return tuple(deviation / divisor if divisor else 0.0 for deviation in deviations)
