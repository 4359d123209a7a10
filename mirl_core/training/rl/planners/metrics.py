"""A step's plan with its metrics, from the rollouts and drafts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mirl_core.training.rl.planners.base import Draft, Group, Rollout
from mirl_core.training.rl.planners.rows import Plan
from mirl_core.training.rl.recipe.config import MIReward
from mirl_core.training.rl.rewards.mi import reward as mi_reward

__all__ = ["make_plan"]


def make_plan(rollouts: Sequence[Rollout], drafts: Sequence[Draft], settings: MIReward, refused: int) -> Plan:
    """Return the plan of a step.

    Its metrics are means over the step, except sums: `tokens/…`, `groups/…`, `…/failed`; metrics without an
    observation are left out. `spread/…` is the mean deviation of rewards within a group, `advantage/…` the
    root mean square over all samples, `entropy/…` minus the mean log p of sampled tokens (nats). `seconds/…`
    are means per question: questions run beside each other.

    Args:
        refused: number of questions that the engine refused.
    """
    groups = [group for draft in drafts for group in draft.groups]
    return Plan(
        rows=tuple(row for draft in drafts for row in draft.rows if row.trained_tokens),
        metrics=_figures(rollouts, groups, settings, refused),
        trajectories=tuple(trajectory for draft in drafts for trajectory in draft.trajectories),
        complete_trajectories=sum(chain.finished for rollout in rollouts for chain in rollout.result.chains),
        generated_tokens=sum(rollout.result.completion_tokens for rollout in rollouts),
        scored_tokens=_scored_tokens(rollouts),
    )


def _figures(
    rollouts: Sequence[Rollout], groups: Sequence[Group], settings: MIReward, refused: int
) -> dict[str, float]:
    figures: dict[str, float] = {
        "groups/all": len(groups),
        "groups/flat": sum(group.flat for group in groups),
        "questions/failed": refused,
        "rewards/failed": sum(bool(chain.judged.failed) for rollout in rollouts for chain in rollout.chains),
        "tokens/describe": _sampled(rollouts, "describe"),
        "tokens/fork": _sampled(rollouts, "fork") + _sampled(rollouts, "plain"),
        "tokens/score": _scored_tokens(rollouts),
    }
    figures |= _means(_observations(rollouts, groups))
    values = [value for value in _mi_values(rollouts, settings) if math.isfinite(value)]
    if values:
        mean = math.fsum(values) / len(values)
        figures["mi/mean"] = mean
        figures["mi/std"] = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    for kind in ("description", "answer"):
        squares = [
            advantage * advantage for group in groups if group.of == kind for advantage in group.advantages
        ]
        if squares:
            figures[f"advantage/{kind}"] = math.sqrt(math.fsum(squares) / len(squares))
    return figures


def _scored_tokens(rollouts: Iterable[Rollout]) -> int:
    """Count the tokens scored by the gate and by the MI reward's scorer."""
    return sum(
        rollout.result.scored_tokens + sum(score.tokens for score in rollout.scored.values())
        for rollout in rollouts
    )


def _sampled(rollouts: Iterable[Rollout], stage: str) -> int:
    return sum(
        stage_usage.generated_tokens
        for rollout in rollouts
        for stage_usage in rollout.result.stages
        if stage_usage.stage == stage
    )


def _observations(rollouts: Sequence[Rollout], groups: Sequence[Group]) -> Iterator[tuple[str, float]]:
    """Yield the name and value of everything that is averaged."""
    for group in groups:
        for reward in group.rewards:
            yield f"reward/{group.of}", reward
        yield f"spread/{group.of}", _deviation(group.rewards)
    for rollout in rollouts:
        yield "questions/fallback", float(rollout.result.fallback is not None)
        yield from _of_descriptions(rollout)
        yield from _of_chains(rollout)
        for stage in rollout.result.stages:
            yield f"seconds/{stage.stage}", stage.seconds
        for name, seconds in rollout.seconds.items():
            yield f"seconds/{name}", seconds


def _of_descriptions(rollout: Rollout) -> Iterator[tuple[str, float]]:
    describes = rollout.question.describes
    for description, sample in rollout.descriptions:
        yield "descriptions/tokens", len(description.token_ids)
        yield "descriptions/valid", float(description.usable)
        yield "descriptions/kept", float(description.kept)
        if description.mi_per_token is not None:
            yield "mi/gate", description.mi_per_token
        if describes is not None:
            right = float(description.usable and describes(description.text))
            yield "descriptions/right", right
            if description.kept:
                yield "descriptions/right_kept", right
        for logprob in sample.logprobs:
            yield "entropy/description", -logprob
    distinct = {description.token_ids for description, _ in rollout.descriptions}
    yield "descriptions/distinct", len(distinct) / len(rollout.descriptions)


def _of_chains(rollout: Rollout) -> Iterator[tuple[str, float]]:
    for chain in rollout.chains:
        yield "answers/right", float(chain.right)
        yield "answers/missing", float(chain.chain.answer is None)
        yield "chains/tokens", len(chain.sample.token_ids)
        for name, part in chain.judged.parts.items():
            yield f"reward/answer/{name}", part
        for logprob in chain.sample.logprobs:
            yield "entropy/reasoning", -logprob


def _mi_values(rollouts: Iterable[Rollout], settings: MIReward) -> Iterator[float]:
    for rollout in rollouts:
        for score in rollout.scored.values():
            value = mi_reward(score.token_mi, settings)
            if value is not None:
                yield value


def _means(observations: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    by_name: dict[str, list[float]] = {}
    for name, value in observations:
        by_name.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in by_name.items()}


def _deviation(rewards: Sequence[float]) -> float:
    mean = math.fsum(rewards) / len(rewards)
    return math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / max(len(rewards) - 1, 1))
