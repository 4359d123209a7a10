"""Advantages of a group: the formula, its floor, flat groups, and what must not depend on what."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.training.rl.planners.advantages import group_advantages

Scale = Literal["group", "none"]
REWARDS = st.lists(st.floats(-1e3, 1e3).map(lambda reward: round(reward, 4)), min_size=1, max_size=20)
SCALES = st.sampled_from(["group", "none"])


def test_the_formula_by_hand() -> None:
    # Mean 2, deviation sqrt((1 + 0 + 1) / 2) = 1.
    assert group_advantages([1.0, 2.0, 3.0], floor=0.0) == (-1.0, 0.0, 1.0)
    assert group_advantages([0.0, 4.0], floor=0.0) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)))


def test_unscaled_advantages_are_differences_from_the_mean() -> None:
    assert group_advantages([0.0, 4.0], floor=100.0, scale="none") == (-2.0, 2.0)


def test_the_floor_holds_small_differences_down_and_leaves_others_alone() -> None:
    rounding = group_advantages([1.0, 1.001], floor=0.05)
    assert rounding == pytest.approx((-0.01, 0.01))
    assert group_advantages([0.0, 1.0], floor=0.05) == group_advantages([0.0, 1.0], floor=0.0)


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("rewards", [[], [3.0], [0.1] * 3, [0.0, 0.0], [-5.5] * 10])
def test_groups_of_equal_rewards_have_advantage_zero(rewards: list[float], scale: Scale) -> None:
    # 0.1 three times over has a rounded mean that is not 0.1.
    assert group_advantages(rewards, floor=0.0, scale=scale) == (0.0,) * len(rewards)


def test_differences_too_small_to_square_divide_by_nothing() -> None:
    assert group_advantages([0.0, 5e-324], floor=0.0) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        group_advantages([0.0, bad], floor=0.05)


@settings(deadline=None)
@given(REWARDS.filter(lambda rewards: max(rewards) - min(rewards) > 0.01))
def test_equal_to_the_formula_that_trl_uses(rewards: list[float]) -> None:
    rewards_tensor = torch.tensor(rewards, dtype=torch.float64)
    deviation = rewards_tensor.std(correction=1)
    theirs = (rewards_tensor - rewards_tensor.mean()) / (deviation + 1e-4)
    # TRL adds 1e-4 to the deviation where MIRL floors it.
    ours = torch.tensor(group_advantages(rewards, floor=1e-4), dtype=torch.float64)
    torch.testing.assert_close(ours * deviation, theirs * (deviation + 1e-4), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(REWARDS, st.floats(0, 1), SCALES)
def test_advantages_sum_to_zero(rewards: list[float], floor: float, scale: Scale) -> None:
    assert math.fsum(group_advantages(rewards, floor, scale)) == pytest.approx(0.0, abs=1e-6)


@settings(deadline=None)
@given(REWARDS, st.integers(-1000, 1000), SCALES)
def test_advantages_ignore_a_shift_of_all_rewards(rewards: list[float], shift: int, scale: Scale) -> None:
    moved = group_advantages([reward + shift for reward in rewards], 0.05, scale)
    assert moved == pytest.approx(group_advantages(rewards, 0.05, scale), abs=1e-6)


@settings(deadline=None)
@given(
    REWARDS.flatmap(lambda rewards: st.tuples(st.just(rewards), st.permutations(range(len(rewards))))), SCALES
)
def test_the_order_of_a_group_changes_no_bit(case: tuple[list[float], list[int]], scale: Scale) -> None:
    rewards, order = case
    advantages = group_advantages(rewards, 0.05, scale)
    shuffled = group_advantages([rewards[place] for place in order], 0.05, scale)
    assert shuffled == tuple(advantages[place] for place in order)


@settings(deadline=None)
@given(REWARDS, st.floats(0, 1))
def test_no_advantage_exceeds_what_its_group_size_allows(rewards: list[float], floor: float) -> None:
    # The largest deviation from the mean of n numbers is (n − 1)/√n of their standard deviation.
    bound = (len(rewards) - 1) / math.sqrt(len(rewards))
    assert all(abs(advantage) <= bound + 1e-9 for advantage in group_advantages(rewards, floor))
