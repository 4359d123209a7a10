"""Plain GRPO: G whole trajectories a question, each rewarded by its answer, every token credited with it.

The trajectories are the pipeline's without a gate: G descriptions, one chain each, which samples G complete
answers in two parts. So the baseline differs from `mirl` by what is rewarded and continued, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners.advantages import group_advantages
from mirl_core.training.rl.planners.base import Draft, Group, Rollout, Rollouts
from mirl_core.training.rl.planners.metrics import finished
from mirl_core.training.rl.planners.rows import Plan, TrainingRow, Trajectory
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.rewards import Judge
from mirl_core.training.rl.rewards.mi_scorers import MIScorer

__all__ = ["GRPOPlanner"]


class GRPOPlanner:
    """One row a trajectory; without a chain, because its description can't go on, it is worth 0.

    Arguments and exceptions are `MIRLPlanner`'s; the scorer is never asked.
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
        if rollout.fork_image == "drop":
            raise ConfigError(
                "rollout.fork_image: with 'drop' the halves of a trajectory have different prompts, and grpo "
                "trains it as one completion; keep the image",
                param="rollout.fork_image",
            )
        options = MIRLOptions(
            descriptions=rollout.trajectories,
            forks=1,
            gate="none",
            description_tokens=rollout.description_tokens,
            early_stop=False,
            aggregate="best",
        )
        self._recipe = recipe
        self._rollouts = Rollouts(engine, settings, recipe, options, judge)

    async def plan(self, questions: Sequence[Question], step: int) -> Plan:
        """See `Planner.plan`."""
        rollouts = await self._rollouts.sample(questions, step)
        drafts = [self._draft(rollout) for rollout in rollouts]
        return finished(rollouts, drafts, self._recipe.rewards.mi, len(questions) - len(rollouts))

    def _draft(self, rollout: Rollout) -> Draft:
        rewards = self._recipe.rewards
        chains = {one.chain.description: one for one in rollout.chains}
        totals = tuple(
            chains[one.index].judged.total if one.index in chains else 0.0 for one, _ in rollout.descriptions
        )
        group = Group(
            of="answer",
            members=tuple((one.index, 0) for one, _ in rollout.descriptions),
            rewards=totals,
            advantages=group_advantages(totals, rewards.answer_floor, rewards.scale),
            name="trajectory",
        )
        return Draft((group,), tuple(self._rows(rollout, group)), tuple(self._trajectories(rollout, group)))

    def _rows(self, rollout: Rollout, group: Group) -> Iterator[TrainingRow]:
        if group.flat:
            return
        chains = {one.chain.description: one.sample for one in rollout.chains}
        for (one, sample), advantage in zip(rollout.descriptions, group.advantages, strict=True):
            parts = [(sample, True)]
            if one.index in chains:
                parts.append((chains[one.index], True))
            yield rollout.row(parts, advantage, "trajectory", group.name)

    def _trajectories(self, rollout: Rollout, group: Group) -> Iterator[Trajectory]:
        chains = {one.chain.description: one for one in rollout.chains}
        for (one, _), reward, advantage in zip(
            rollout.descriptions, group.rewards, group.advantages, strict=True
        ):
            if one.index in chains:
                yield rollout.trajectory(chains[one.index], "trajectory", reward, advantage)
            else:
                yield Trajectory(rollout.question.key, one.text, "trajectory", reward, advantage, right=False)
