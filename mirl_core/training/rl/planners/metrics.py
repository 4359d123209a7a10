"""A step's plan with its figures, from the rollouts and what was made of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mirl_core.training.rl.planners.base import Draft, Group, Rollout
from mirl_core.training.rl.planners.rows import Plan
from mirl_core.training.rl.recipe.config import MIReward
from mirl_core.training.rl.rewards.mi import reward as mi_reward
from mirl_core.types import Description

__all__ = ["finished", "is_usable"]


def is_usable(description: Description) -> bool:
    """Whether chains may continue it, kept or not."""
    return description.reason in (None, "gate", "duplicate")


def finished(rollouts: Sequence[Rollout], drafts: Sequence[Draft], settings: MIReward, refused: int) -> Plan:
    """The plan of a step.

    Its metrics are means over the step, but for sums: `tokens/…`, `groups/…`, `…/failed`; what nothing was
    seen for is left out. `spread/…` is the mean deviation of rewards within a group, `advantage/…` the root
    mean square over all samples, `entropy/…` minus the mean log p of sampled tokens (nats). `seconds/…` are
    one question's own on average: questions run beside each other.

    Args:
        refused: questions that the engine did not take.
    """
    groups = [group for draft in drafts for group in draft.groups]
    return Plan(
        rows=tuple(row for draft in drafts for row in draft.rows if row.trained_tokens),
        metrics=_figures(rollouts, groups, settings, refused),
        trajectories=tuple(one for draft in drafts for one in draft.trajectories),
        complete_trajectories=sum(one.finished for rollout in rollouts for one in rollout.result.chains),
        generated_tokens=sum(rollout.result.completion_tokens for rollout in rollouts),
        scored_tokens=_scored_tokens(rollouts),
    )


def _figures(
    rollouts: Sequence[Rollout], groups: Sequence[Group], settings: MIReward, refused: int
) -> dict[str, float]:
    found: dict[str, float] = {
        "groups/all": len(groups),
        "groups/flat": sum(group.flat for group in groups),
        "questions/failed": refused,
        "rewards/failed": sum(bool(one.judged.failed) for rollout in rollouts for one in rollout.chains),
        "tokens/describe": _sampled(rollouts, "describe"),
        "tokens/fork": _sampled(rollouts, "fork") + _sampled(rollouts, "plain"),
        "tokens/score": _scored_tokens(rollouts),
    }
    found |= _means(_observations(rollouts, groups))
    values = [value for value in _mi_values(rollouts, settings) if math.isfinite(value)]
    if values:
        mean = math.fsum(values) / len(values)
        found["mi/mean"] = mean
        found["mi/std"] = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    for kind in ("description", "answer"):
        squares = [one * one for group in groups if group.of == kind for one in group.advantages]
        if squares:
            found[f"advantage/{kind}"] = math.sqrt(math.fsum(squares) / len(squares))
    return found


def _scored_tokens(rollouts: Iterable[Rollout]) -> int:
    """By the gate and by the MI reward's scorer."""
    return sum(
        rollout.result.scored_tokens + sum(one.tokens for one in rollout.scored.values())
        for rollout in rollouts
    )


def _sampled(rollouts: Iterable[Rollout], stage: str) -> int:
    return sum(
        one.generated_tokens for rollout in rollouts for one in rollout.result.stages if one.stage == stage
    )


def _observations(rollouts: Sequence[Rollout], groups: Sequence[Group]) -> Iterator[tuple[str, float]]:
    """What is averaged, name by name."""
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
    for one, sample in rollout.descriptions:
        yield "descriptions/tokens", len(one.token_ids)
        yield "descriptions/valid", float(is_usable(one))
        yield "descriptions/kept", float(one.kept)
        if one.mi_per_token is not None:
            yield "mi/gate", one.mi_per_token
        if describes is not None:
            right = float(is_usable(one) and describes(one.text))
            yield "descriptions/right", right
            if one.kept:
                yield "descriptions/right_kept", right
        for logprob in sample.logprobs:
            yield "entropy/description", -logprob
    distinct = {one.token_ids for one, _ in rollout.descriptions}
    yield "descriptions/distinct", len(distinct) / len(rollout.descriptions)


def _of_chains(rollout: Rollout) -> Iterator[tuple[str, float]]:
    for one in rollout.chains:
        yield "answers/right", float(one.right)
        yield "answers/missing", float(one.chain.answer is None)
        yield "chains/tokens", len(one.sample.token_ids)
        for name, part in one.judged.parts.items():
            yield f"reward/answer/{name}", part
        for logprob in one.sample.logprobs:
            yield "entropy/reasoning", -logprob


def _mi_values(rollouts: Iterable[Rollout], settings: MIReward) -> Iterator[float]:
    for rollout in rollouts:
        for one in rollout.scored.values():
            value = mi_reward(one.token_mi, settings)
            if value is not None:
                yield value


def _means(observations: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    seen: dict[str, list[float]] = {}
    for name, value in observations:
        seen.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in seen.items()}


def _deviation(rewards: Sequence[float]) -> float:
    mean = math.fsum(rewards) / len(rewards)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in rewards) / max(len(rewards) - 1, 1))
