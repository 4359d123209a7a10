"""MIRL: descriptions are rewarded by what they owe to the image, reasoning by where it ends.

N descriptions are sampled and compared by their MI; the gate keeps k, each is continued into m chains, and
the chains are compared by their answers. No answer's reward reaches a description's tokens and no MI a
chain's, unless the recipe asks for an ablation (`rewards.credit`, `rewards.description`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners.advantages import group_advantages
from mirl_core.training.rl.planners.base import Draft, Group, JudgedChain, Place, Rollout, Rollouts
from mirl_core.training.rl.planners.metrics import finished, is_usable
from mirl_core.training.rl.planners.rows import Plan, TrainingRow, Trajectory
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.rewards import Judge
from mirl_core.training.rl.rewards.mi import description_rewards
from mirl_core.training.rl.rewards.mi import reward as mi_reward
from mirl_core.training.rl.rewards.mi_scorers import MIScorer

__all__ = ["MIRLPlanner"]


class MIRLPlanner:
    """Rows of descriptions and of chains, each with advantages of their own.

    Args:
        engine: samples from the policy.
        settings: the model's tags and instruction.
        judge: rewards chains.
        scorer: scores descriptions; not asked unless they are rewarded by their MI.

    Raises:
        ConfigError: the recipe asks for what can't be; `param` is the key.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        recipe: RLRecipe,
        judge: Judge,
        scorer: MIScorer | None = None,
    ) -> None:
        rollout, rewards = recipe.rollout, recipe.rewards
        wants_mi = rewards.description == "mi"
        if wants_mi and scorer is None:
            raise ValueError("descriptions are rewarded by their MI, and there is no scorer")
        if rewards.credit == "shared" and rollout.fork_image == "drop":
            raise ConfigError(
                "rewards.credit: 'shared' trains a trajectory as one completion, and with "
                "rollout.fork_image 'drop' its halves have different prompts; keep the image",
                param="rewards.credit",
            )
        if rewards.baseline == "description" and rollout.forks < 2:
            raise ConfigError(
                "rewards.baseline: 'description' compares a description's chains, and rollout.forks is 1; "
                "raise it to at least 2",
                param="rewards.baseline",
            )
        options = MIRLOptions(
            descriptions=rollout.descriptions,
            keep=rollout.keep,
            forks=rollout.forks,
            gate=rollout.gate,
            mi_weight=rollout.mi_weight,
            clip=rollout.clip,
            normalize=rollout.normalize,
            fork_image=rollout.fork_image,
            description_tokens=rollout.description_tokens,
            early_stop=False,
            # The vote isn't used, and this one compares no answers.
            aggregate="best",
        )
        self._recipe = recipe
        self._rollouts = Rollouts(engine, settings, recipe, options, judge, scorer if wants_mi else None)

    async def plan(self, questions: Sequence[Question], step: int) -> Plan:
        """See `Planner.plan`."""
        rollouts = await self._rollouts.sample(questions, step)
        drafts = [self._draft(rollout) for rollout in rollouts]
        return finished(rollouts, drafts, self._recipe.rewards.mi, len(questions) - len(rollouts))

    def _draft(self, rollout: Rollout) -> Draft:
        described = self._compare_descriptions(rollout)
        reasoned = self._compare_chains(rollout)
        make = self._shared_rows if self._recipe.rewards.credit == "shared" else self._decoupled_rows
        groups = (described, *reasoned) if described else tuple(reasoned)
        return Draft(
            groups, tuple(make(rollout, described, reasoned)), tuple(self._trajectories(rollout, groups))
        )

    def _compare_descriptions(self, rollout: Rollout) -> Group | None:
        """All descriptions by their MI, or those that were continued by their chains; None: not at all."""
        rewards = self._recipe.rewards
        values: dict[int, float] = {}
        if rewards.description == "mi":
            descriptions = [one for one, _ in rollout.descriptions]
            scored = [rollout.scored.get(one.index) for one in descriptions]
            mi = [None if one is None else one.token_mi for one in scored]
            worth = description_rewards(descriptions, mi, rewards.mi).values
            values = {one.index: value for one, value in zip(descriptions, worth, strict=True)}
        elif rewards.description == "answer":
            for index, chains in groupby(rollout.chains, lambda one: one.chain.description):
                totals = [one.judged.total for one in chains]
                values[_known(index)] = math.fsum(totals) / len(totals)
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
        """All chains of the question with each other, or those of one description."""
        rewards = self._recipe.rewards
        compared = {"reasoning": list(rollout.chains)}
        if rewards.baseline == "description":
            compared = {
                f"reasoning-{index}": list(chains)
                for index, chains in groupby(rollout.chains, lambda one: one.chain.description)
            }
        groups = []
        for name, chains in compared.items():
            values = tuple(one.judged.total for one in chains)
            advantages = group_advantages(values, rewards.answer_floor, rewards.scale)
            groups.append(Group("answer", tuple(map(_place, chains)), values, advantages, name))
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
        chains = {_place(one): one.sample for one in rollout.chains}
        for group in reasoned:
            for place, advantage in () if group.flat else zip(group.members, group.advantages, strict=True):
                parts = [(samples[place[0]], False), (chains[place], True)]
                yield rollout.row(parts, advantage, "reasoning", group.name, prompt=prompt)

    def _shared_rows(
        self, rollout: Rollout, described: Group | None, reasoned: Sequence[Group]
    ) -> Iterator[TrainingRow]:
        """Trajectories under the sum of both advantages; a description without chains under its own."""
        samples = rollout.described
        chains = {_place(one): one.sample for one in rollout.chains}
        own: dict[int, float] = {}
        if described and not described.flat:
            own = {
                index: worth
                for (index, _), worth in zip(described.members, described.advantages, strict=True)
            }
        for group in reasoned:
            for place, advantage in zip(group.members, group.advantages, strict=True):
                parts = [(samples[place[0]], True), (chains[place], True)]
                if own or not group.flat:
                    total = own.get(place[0], 0.0) + advantage
                    yield rollout.row(parts, total, "trajectory", "trajectory")
        for index, worth in own.items():
            if all(index != description for description, _ in chains):
                yield rollout.row([(samples[index], True)], worth, "trajectory", "trajectory")

    def _trajectories(self, rollout: Rollout, groups: Sequence[Group]) -> Iterator[Trajectory]:
        worth = {
            place: (reward, advantage)
            for group in groups
            for place, reward, advantage in zip(group.members, group.rewards, group.advantages, strict=True)
        }
        for one, _ in rollout.descriptions:
            reward, advantage = worth.get((one.index, None), (0.0, 0.0))
            scored = rollout.scored.get(one.index)
            mi = None if scored is None else mi_reward(scored.token_mi, self._recipe.rewards.mi)
            describes = rollout.question.describes
            yield Trajectory(
                question=rollout.question.key,
                text=one.text,
                segment="description",
                reward=reward,
                advantage=advantage,
                parts={} if mi is None else {"mi": mi},
                right=None if describes is None else is_usable(one) and describes(one.text),
            )
        for chain in rollout.chains:
            reward, advantage = worth[_place(chain)]
            yield rollout.trajectory(chain, "reasoning", reward, advantage)


def _place(chain: JudgedChain) -> Place:
    return _known(chain.chain.description), chain.chain.fork


def _known(index: int | None) -> int:
    assert index is not None, "a fallback's chain is never compared"
    return index
