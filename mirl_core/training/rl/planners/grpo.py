"""Plain GRPO: G whole trajectories per question, each rewarded by its answer, which credits every token.

The trajectories are the pipeline's without a gate: G descriptions with one chain each, so G complete answers
sampled in two parts. So the baseline differs from `mirl` only by its rewards and the descriptions it
continues.
"""

from __future__ import annotations

from collections.abc import Iterator

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.training.rl.planners.advantages import group_advantages
from mirl_core.training.rl.planners.base import Draft, Group, Rollout, RolloutSampler
from mirl_core.training.rl.planners.drafting import DraftingPlanner
from mirl_core.training.rl.planners.rows import TrainingRow, Trajectory
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.recipe.contradictions import check_planner
from mirl_core.training.rl.rewards import Judge
from mirl_core.training.rl.rewards.mi_scorers import MIScorer

__all__ = ["GRPOPlanner"]


class GRPOPlanner(DraftingPlanner):
    """One row per trajectory; a trajectory without a chain, because its description can't continue, has
    reward 0.

    Arguments and exceptions are `MIRLPlanner`'s; the scorer is never used.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        recipe: RLRecipe,
        judge: Judge,
        scorer: MIScorer | None = None,
    ) -> None:
        del scorer
        rollout = recipe.rollout
        check_planner(recipe)
        options = MIRLOptions(
            descriptions=rollout.trajectories,
            forks=1,
            gate="none",
            description_tokens=rollout.description_tokens,
            early_stop=False,
            aggregate="best",
        )
        super().__init__(RolloutSampler(engine, settings, recipe, options, judge))

    def _draft(self, rollout: Rollout) -> Draft:
        rewards = self._recipe.rewards
        chains = {chain.chain.description: chain for chain in rollout.chains}
        totals = tuple(
            chains[description.index].judged.total if description.index in chains else 0.0
            for description, _ in rollout.descriptions
        )
        group = Group(
            of="answer",
            members=tuple((description.index, 0) for description, _ in rollout.descriptions),
            rewards=totals,
            advantages=group_advantages(totals, rewards.answer_floor, rewards.scale),
            name="trajectory",
        )
        return Draft((group,), tuple(self._rows(rollout, group)), tuple(self._trajectories(rollout, group)))

    def _rows(self, rollout: Rollout, group: Group) -> Iterator[TrainingRow]:
        if group.flat:
            return
        chains = {chain.chain.description: chain.sample for chain in rollout.chains}
        for (description, sample), advantage in zip(rollout.descriptions, group.advantages, strict=True):
            parts = [(sample, True)]
            if description.index in chains:
                parts.append((chains[description.index], True))
            yield rollout.row(parts, advantage, "trajectory", group.name)

    def _trajectories(self, rollout: Rollout, group: Group) -> Iterator[Trajectory]:
        chains = {chain.chain.description: chain for chain in rollout.chains}
        for (description, _), reward, advantage in zip(
            rollout.descriptions, group.rewards, group.advantages, strict=True
        ):
            if description.index in chains:
                yield rollout.trajectory(chains[description.index], "trajectory", reward, advantage)
            else:
                yield Trajectory(
                    rollout.question.key, description.text, "trajectory", reward, advantage, right=False
                )
