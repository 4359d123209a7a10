"""The common part of the planners: rollouts in, a draft of each, one plan out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners.base import Draft, Rollout, RolloutSampler
from mirl_core.training.rl.planners.metrics import make_plan
from mirl_core.training.rl.planners.rows import Plan

__all__ = ["DraftingPlanner"]


class DraftingPlanner(ABC):
    """A planner that drafts each question by itself.

    Args:
        sampler: samples the rollouts; its recipe is the planner's.
    """

    def __init__(self, sampler: RolloutSampler) -> None:
        self._sampler = sampler
        self._recipe = sampler.recipe

    async def plan(self, questions: Sequence[Question], step: int) -> Plan:
        """See `Planner.plan`."""
        rollouts = await self._sampler.sample(questions, step)
        drafts = [self._draft(rollout) for rollout in rollouts]
        return make_plan(rollouts, drafts, self._recipe.rewards.mi, len(questions) - len(rollouts))

    @abstractmethod
    def _draft(self, rollout: Rollout) -> Draft:
        """Return the groups, rows and trajectories of one question."""
