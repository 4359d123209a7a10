"""Rewards of a trajectory. A reward of chains is one small class with an entry in `REWARDS`.

    judge.py       the sum of a chain's rewards; a reward that raises stops nothing
    equality.py    exact, numeric, math: whether the answer is right
    form.py        format: whether all tags are in place
    imported.py    callable: a user's function
    mi.py          MI of a description with its image, for the description's own tokens
    mi_scorers.py  the model that scores that MI

Light to import: no torch, and mathematics only where an answer needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mirl_core.config import Tags
from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.config import AnswerReward
from mirl_core.training.rl.rewards.equality import ExactReward, MathReward, NumericReward
from mirl_core.training.rl.rewards.form import FormatReward
from mirl_core.training.rl.rewards.imported import CallableReward
from mirl_core.training.rl.rewards.judge import Judge, Judged, Reward

__all__ = ["REWARDS", "Judge", "Judged", "Reward", "make_rewards"]

REWARDS: dict[
    str,
    type[ExactReward] | type[NumericReward] | type[MathReward] | type[FormatReward] | type[CallableReward],
] = {
    "exact": ExactReward,
    "numeric": NumericReward,
    "math": MathReward,
    "format": FormatReward,
    "callable": CallableReward,
}


def make_rewards(configs: Sequence[AnswerReward], tags: Tags | None = None) -> tuple[Reward, ...]:
    """Make the rewards of a recipe, imported and ready, before any model is loaded.

    Args:
        configs: `rewards.answer` of the recipe.
        tags: the model's markup, for `format`; None: the default.

    Raises:
        ConfigError: a reward can't be made; `param` is its key, such as `rewards.answer.0.target`.
    """
    rewards: list[Reward] = []
    for index, config in enumerate(configs):
        key = f"rewards.answer.{index}"
        if not math.isfinite(config.weight):
            raise ConfigError(f"{key}.weight: {config.weight} is not a weight", param=f"{key}.weight")
        name = config.kind if config.target is None else config.target.rpartition(":")[2]
        same_name = sum(reward.name.partition("-")[0] == name for reward in rewards)
        name = f"{name}-{same_name + 1}" if same_name else name
        rewards.append(REWARDS[config.kind].make(name, config, tags or Tags(), key))
    return tuple(rewards)
