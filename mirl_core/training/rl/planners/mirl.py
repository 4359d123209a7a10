"""MIRL: descriptions are rewarded by what they owe to the image, reasoning by its answer.

N descriptions are sampled and compared by their MI; the gate keeps k, each is continued into m chains, and
the chains are compared by their answers. An answer's reward never reaches a description's tokens, nor MI a
chain's, unless the recipe sets an ablation (`rewards.credit`, `rewards.description`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.training.rl.planners.advantages import group_advantages
from mirl_core.training.rl.planners.base import BranchKey, Draft, Group, JudgedChain, Rollout, RolloutSampler
from mirl_core.training.rl.planners.drafting import DraftingPlanner
from mirl_core.training.rl.planners.rows import TrainingRow, Trajectory
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.recipe.contradictions import check_planner
from mirl_core.training.rl.rewards import Judge
from mirl_core.training.rl.rewards.mi import description_rewards
from mirl_core.training.rl.rewards.mi import reward as mi_reward
from mirl_core.training.rl.rewards.mi_scorers import MIScorer

__all__ = ["MIRLPlanner"]


class MIRLPlanner(DraftingPlanner):
    """Rows of descriptions and of chains, with separate advantages.

    Args:
        engine: samples from the policy.
        settings: the model's tags and instruction.
        judge: rewards chains.
        scorer: scores descriptions; used only where they are rewarded by their MI.

    Raises:
        ConfigError: settings of the recipe contradict each other; `param` is the key.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        recipe: RLRecipe,
        judge: Judge,
        scorer: MIScorer | None = None,
    ) -> None:
        wants_mi = recipe.rewards.description == "mi"
        if wants_mi and scorer is None:
            raise ValueError("descriptions are rewarded by their MI, and there is no scorer")
        check_planner(recipe)
        options = recipe.rollout.gated_options()
        super().__init__(
            RolloutSampler(engine, settings, recipe, options, judge, scorer if wants_mi else None)
        )

    def _draft(self, rollout: Rollout) -> Draft:
        described = self._compare_descriptions(rollout)
        reasoned = self._compare_chains(rollout)
        make = self._shared_rows if self._recipe.rewards.credit == "shared" else self._decoupled_rows
        groups = (described, *reasoned) if described else tuple(reasoned)
        return Draft(
            groups, tuple(make(rollout, described, reasoned)), tuple(self._trajectories(rollout, groups))
        )

    def _compare_descriptions(self, rollout: Rollout) -> Group | None:
        """Compare all descriptions by their MI, or the continued ones by their chains; return None where the
        recipe rewards neither."""
        rewards = self._recipe.rewards
        values: dict[int, float] = {}
        if rewards.description == "mi":
            descriptions = [description for description, _ in rollout.descriptions]
            scored = [rollout.scored.get(description.index) for description in descriptions]
            mi = [None if score is None else score.token_mi for score in scored]
            description_values = description_rewards(descriptions, mi, rewards.mi).values
            values = {
                description.index: reward
                for description, reward in zip(descriptions, description_values, strict=True)
            }
        elif rewards.description == "answer":
            for index, chains in groupby(rollout.chains, lambda chain: chain.chain.description):
                totals = [chain.judged.total for chain in chains]
                values[_description_index(index)] = math.fsum(totals) / len(totals)
        if not values:
            return None
        floor = rewards.mi_floor if rewards.description == "mi" else rewards.answer_floor
        return Group(
            of="description",
            members=tuple((index, None) for index in values),
            rewards=tuple(values.values()),
            advantages=group_advantages(tuple(values.values()), floor, rewards.scale),
            name="description",
        )

    def _compare_chains(self, rollout: Rollout) -> list[Group]:
        """Compare all chains of the question, or those of each description."""
        rewards = self._recipe.rewards
        compared = {"reasoning": list(rollout.chains)}
        if rewards.baseline == "description":
            compared = {
                f"reasoning-{index}": list(chains)
                for index, chains in groupby(rollout.chains, lambda chain: chain.chain.description)
            }
        groups = []
        for name, chains in compared.items():
            values = tuple(chain.judged.total for chain in chains)
            advantages = group_advantages(values, rewards.answer_floor, rewards.scale)
            groups.append(Group("answer", tuple(map(_branch_key, chains)), values, advantages, name))
        return [group for group in groups if group.members]

    def _decoupled_rows(
        self, rollout: Rollout, described: Group | None, reasoned: Sequence[Group]
    ) -> Iterator[TrainingRow]:
        samples = rollout.described
        if described and not described.flat:
            for (index, _), advantage in zip(described.members, described.advantages, strict=True):
                yield rollout.row([(samples[index], True)], advantage, "description", described.name)
        prompt = rollout.prompt
        if self._recipe.rollout.fork_image == "drop":
            prompt = prompt.with_images(None)
        chains = {_branch_key(chain): chain.sample for chain in rollout.chains}
        for group in reasoned:
            for key, advantage in () if group.flat else zip(group.members, group.advantages, strict=True):
                parts = [(samples[key[0]], False), (chains[key], True)]
                yield rollout.row(parts, advantage, "reasoning", group.name, prompt=prompt)

    def _shared_rows(
        self, rollout: Rollout, described: Group | None, reasoned: Sequence[Group]
    ) -> Iterator[TrainingRow]:
        """Yield trajectories with the sum of both advantages; a description without chains with its own
        advantage."""
        samples = rollout.described
        chains = {_branch_key(chain): chain.sample for chain in rollout.chains}
        description_advantages: dict[int, float] = {}
        if described and not described.flat:
            description_advantages = {
                index: description_advantage
                for (index, _), description_advantage in zip(
                    described.members, described.advantages, strict=True
                )
            }
        for group in reasoned:
            for key, advantage in zip(group.members, group.advantages, strict=True):
                parts = [(samples[key[0]], True), (chains[key], True)]
                if description_advantages or not group.flat:
                    total = description_advantages.get(key[0], 0.0) + advantage
                    yield rollout.row(parts, total, "trajectory", "trajectory")
        for index, description_advantage in description_advantages.items():
            if all(index != description for description, _ in chains):
                yield rollout.row([(samples[index], True)], description_advantage, "trajectory", "trajectory")

    def _trajectories(self, rollout: Rollout, groups: Sequence[Group]) -> Iterator[Trajectory]:
        values = {
            key: (reward, advantage)
            for group in groups
            for key, reward, advantage in zip(group.members, group.rewards, group.advantages, strict=True)
        }
        for description, _ in rollout.descriptions:
            reward, advantage = values.get((description.index, None), (0.0, 0.0))
            scored = rollout.scored.get(description.index)
            mi = None if scored is None else mi_reward(scored.token_mi, self._recipe.rewards.mi)
            describes = rollout.question.describes
            yield Trajectory(
                question=rollout.question.key,
                text=description.text,
                segment="description",
                reward=reward,
                advantage=advantage,
                parts={} if mi is None else {"mi": mi},
                right=None if describes is None else description.usable and describes(description.text),
            )
        for chain in rollout.chains:
            reward, advantage = values[_branch_key(chain)]
            yield rollout.trajectory(chain, "reasoning", reward, advantage)


def _branch_key(chain: JudgedChain) -> BranchKey:
    return _description_index(chain.chain.description), chain.chain.fork


def _description_index(index: int | None) -> int:
    assert index is not None, "a fallback's chain is never compared"
    return index
