"""Rollouts, rewards and advantages of one step: questions in, training rows out; imports the pipeline, no
torch.

    question_source.py  the questions of each step
    base.py             runs the pipeline on every question of a step, and keeps all samples
    drafting.py         what the planners share
    mirl.py             descriptions rewarded by MI, the reasoning of kept descriptions by its answers
    grpo.py             whole trajectories rewarded by their answers
    advantages.py       rewards of a group → advantages
    metrics.py          a step's figures
    rows.py             the result: rows, trajectories, plan

A group whose rewards are all equal has no gradient: its rows are left out, of the KL term too, and the
metrics count it. The trainer normalises over the remaining rows, as DAPO does (Yu et al. 2025, section 3.2,
whose dynamic sampling drops the same groups).
"""

from __future__ import annotations

from typing import Literal

from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.training.rl.planners.base import Planner
from mirl_core.training.rl.planners.grpo import GRPOPlanner
from mirl_core.training.rl.planners.mirl import MIRLPlanner
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.rewards import Judge
from mirl_core.training.rl.rewards.mi_scorers import MIScorer

__all__ = ["PLANNERS", "GRPOPlanner", "MIRLPlanner", "Planner", "make_planner"]

PLANNERS: dict[Literal["mirl", "grpo"], type[MIRLPlanner] | type[GRPOPlanner]] = {
    "mirl": MIRLPlanner,
    "grpo": GRPOPlanner,
}


def make_planner(
    engine: Engine, settings: ModelSettings, recipe: RLRecipe, judge: Judge, scorer: MIScorer | None = None
) -> Planner:
    """Return the recipe's planner.

    Args:
        engine: samples from the policy.
        settings: the model's tags and instruction.
        judge: rewards chains.
        scorer: scores descriptions; used only where `mirl` rewards descriptions by their MI.

    Raises:
        ConfigError: a setting of the recipe is impossible with this planner; `param` is the key.
    """
    return PLANNERS[recipe.planner](engine, settings, recipe, judge, scorer)
