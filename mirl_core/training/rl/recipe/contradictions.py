"""Contradictions of a recipe: valid settings that together train nothing, or something else than intended.

Each rule yields problems with their remedies. They need the recipe alone: no file, no model, no package.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, Literal

from mirl_core.algorithm.gates import GATES
from mirl_core.training.recipe import Problem
from mirl_core.training.rl.recipe.config import CheckpointConfig, EvaluationConfig, OptimizerConfig, RLRecipe

__all__ = ["RULES", "check_planner", "contradictions"]

Problems = Iterator[Problem]
Rule = Callable[[RLRecipe], Problems]

_LEAST_RATE = 1e-12
"""AdamW moves a weight by about the learning rate; float32 weights don't show less than this."""
_BOUNDS = frozenset(
    {
        "optimizer.max_grad_norm",
        "optimizer.stop_grad_norm",
        "optimizer.clip_high",
        "optimizer.importance_cap",
        "rewards.mi.clip",
        "rollout.clip",
    }
)
"""Settings at which infinity means that there is no bound."""


def contradictions(recipe: RLRecipe) -> Problems:
    """Yield the recipe's contradictions, in the order of `RULES`."""
    for rule in RULES:
        yield from rule(recipe)


def check_planner(recipe: RLRecipe) -> None:
    """Raise ConfigError where the recipe's planner can't make rows; `param` is the key."""
    for rule in (_grpo_prompts, _mirl_prompts):
        for problem in rule(recipe):
            raise problem.error()


def _of_planner(planner: Literal["mirl", "grpo"]) -> Callable[[Rule], Rule]:
    """Return a decorator of rules that hold for this planner's recipes alone."""

    def limited(rule: Rule) -> Rule:
        @wraps(rule)
        def check(recipe: RLRecipe) -> Problems:
            if recipe.planner == planner:
                yield from rule(recipe)

        return check

    return limited


def _finite(recipe: RLRecipe) -> Problems:
    for key, value in _numbers(recipe.model_dump(), ""):
        if math.isnan(value) or (math.isinf(value) and key not in _BOUNDS):
            yield Problem(key, f"{value} is no finite number")


def _numbers(values: Any, prefix: str) -> Iterator[tuple[str, float]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            # An engine's own arguments are the engine's to check.
            if name != "engine_args":
                yield from _numbers(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _numbers(value, f"{prefix}.{index}")
    elif isinstance(values, float):
        yield prefix, values


@_of_planner("grpo")
def _grpo_prompts(recipe: RLRecipe) -> Problems:
    if recipe.rollout.fork_image == "drop":
        yield Problem(
            "rollout.fork_image",
            "with 'drop' the halves of a trajectory have different prompts, and grpo trains it as one "
            "completion; keep the image",
        )


@_of_planner("mirl")
def _mirl_prompts(recipe: RLRecipe) -> Problems:
    rollout, rewards = recipe.rollout, recipe.rewards
    if rewards.credit == "shared" and rollout.fork_image == "drop":
        yield Problem(
            "rewards.credit",
            "'shared' trains a trajectory as one completion, and with rollout.fork_image 'drop' its halves "
            "have different prompts; keep the image",
        )
    if rewards.baseline == "description" and rollout.forks < 2:
        yield Problem(
            "rewards.baseline",
            "'description' compares a description's chains, and rollout.forks is 1; raise it to at least 2",
        )


@_of_planner("grpo")
def _ignored_by_grpo(recipe: RLRecipe) -> Problems:
    # Ignoring these would mislabel an ablation.
    rewards = recipe.rewards
    if rewards.description != "mi":
        yield Problem(
            "rewards.description", "the planner grpo rewards no description by itself; leave it out"
        )
    if rewards.credit != "decoupled":
        yield Problem("rewards.credit", "the planner grpo has one reward; leave it out")
    if rewards.baseline != "prompt":
        yield Problem("rewards.baseline", "the planner grpo compares whole trajectories; leave it out")
    if recipe.optimizer.description_weight != OptimizerConfig().description_weight:
        yield Problem(
            "optimizer.description_weight",
            "the planner grpo trains whole trajectories, by optimizer.reasoning_weight; leave it out",
        )


@_of_planner("grpo")
def _grpo_groups(recipe: RLRecipe) -> Problems:
    """Groups of one: their advantages are 0."""
    if recipe.rollout.trajectories < 2:
        yield Problem(
            "rollout.trajectories",
            "a single trajectory has no other to be compared with, so nothing is trained; set at least 2",
        )


@_of_planner("mirl")
def _mirl_groups(recipe: RLRecipe) -> Problems:
    """Groups of one: their advantages are 0."""
    rollout, rewards = recipe.rollout, recipe.rewards
    if rewards.description == "mi" and rollout.descriptions < 2:
        yield Problem(
            "rollout.descriptions",
            "a single description has no other to be compared with; set at least 2, or "
            "rewards.description: none",
        )
    gate = GATES[rollout.gate]
    kept = gate.most_kept(rollout.gated_options())
    if rewards.description == "answer" and kept < 2:
        yield Problem(
            "rollout.keep" if gate.uses_keep else "rollout.descriptions",
            "rewards.description: answer compares kept descriptions, and there is a single one; set at least "
            "2, or rewards.description: none",
        )
    if rewards.baseline == "prompt" and kept * rollout.forks < 2 and _trains_chains(recipe):
        yield Problem(
            "rollout.forks",
            "a single chain per question has no other to be compared with; set at least 2, or raise "
            "rollout.keep",
        )


@_of_planner("mirl")
def _gate(recipe: RLRecipe) -> Problems:
    rollout = recipe.rollout
    if not GATES[rollout.gate].uses_keep:
        return
    if rollout.keep > rollout.descriptions:
        yield Problem(
            "rollout.keep",
            f"{rollout.keep} of {rollout.descriptions} descriptions can't be kept; lower it",
        )
    elif rollout.keep == rollout.descriptions:
        yield Problem(
            "rollout.keep",
            f"the gate '{rollout.gate}' keeps all {rollout.keep} descriptions and so ranks them for nothing; "
            "lower it, or set rollout.gate: none",
        )


def _rewards(recipe: RLRecipe) -> Problems:
    rewards = recipe.rewards
    for index, reward in enumerate(rewards.answer):
        if reward.tolerance and reward.kind != "numeric":
            yield Problem(
                f"rewards.answer.{index}.tolerance",
                f"the reward '{reward.kind}' has no tolerance; leave it out, or set kind: numeric",
            )
    if recipe.planner == "mirl" and rewards.description != "answer" and not _trains_chains(recipe):
        return
    if not any(reward.weight for reward in rewards.answer):
        yield Problem(
            "rewards.answer",
            "every weight is 0, so all chains have the same reward; set a weight, or, to train descriptions "
            "alone, optimizer.reasoning_weight: 0",
        )
        return
    sums: Counter[tuple[object, ...]] = Counter()
    for reward in rewards.answer:
        sums[reward.kind, reward.tolerance, reward.target] += reward.weight  # type: ignore[assignment]
    if not any(sums.values()):
        yield Problem(
            "rewards.answer",
            "the weights of equal rewards add up to 0, so all chains have the same reward; name each once",
        )


def _losses(recipe: RLRecipe) -> Problems:
    """Weights of the loss that leave nothing, or what is rewarded, untrained."""
    optimizer, rewards = recipe.optimizer, recipe.rewards
    described = rewards.credit == "decoupled" and recipe.description_reward != "none"
    if described and not optimizer.description_weight:
        yield Problem(
            "optimizer.description_weight",
            "descriptions are rewarded, and at 0 they aren't trained; raise it, or set "
            "rewards.description: none",
        )
    if not optimizer.reasoning_weight and not described:
        yield Problem(
            "optimizer.reasoning_weight", "at 0 nothing is trained: no other segment has a reward; raise it"
        )


def _trains_chains(recipe: RLRecipe) -> bool:
    return recipe.optimizer.reasoning_weight > 0 or recipe.rewards.credit == "shared"


def _optimizer(recipe: RLRecipe) -> Problems:
    optimizer = recipe.optimizer
    if optimizer.learning_rate < _LEAST_RATE:
        yield Problem(
            "optimizer.learning_rate",
            f"{optimizer.learning_rate:g} changes no float32 weight; set at least {_LEAST_RATE:g}",
        )
    if max(optimizer.betas) >= 1:
        yield Problem("optimizer.betas", f"AdamW needs betas below 1, not {max(optimizer.betas):g}")
    if optimizer.warmup > recipe.steps:
        yield Problem("optimizer.warmup", f"{optimizer.warmup} of {recipe.steps} steps; lower it")
    stop = optimizer.stop_grad_norm
    if stop is not None and stop < optimizer.max_grad_norm:
        yield Problem(
            "optimizer.stop_grad_norm",
            f"{stop:g} stops the run below optimizer.max_grad_norm {optimizer.max_grad_norm:g}, at which "
            "gradients are clipped; raise it",
        )
    for index, pattern in enumerate(optimizer.freeze):
        key = f"optimizer.freeze.{index}"
        try:
            every = re.search(pattern, "") is not None
        except re.error as error:
            yield Problem(key, f"{pattern!r} is no regular expression: {error}")
            continue
        if every:
            yield Problem(key, f"{pattern!r} matches every name, so nothing is trained; name some parameters")
    if optimizer.lora is not None:
        if optimizer.lora.dropout >= 1:
            yield Problem("optimizer.lora.dropout", "at 1 the adapters have no effect; lower it")
        if not optimizer.lora.targets:
            yield Problem("optimizer.lora.targets", "no layer gets an adapter; name layers, or all-linear")


def _intervals(recipe: RLRecipe) -> Problems:
    """Intervals that the run is too short for; a recipe that doesn't set them has the usual ones."""
    checkpoint = recipe.checkpoint
    if checkpoint.every > recipe.steps and checkpoint.every != CheckpointConfig().every:
        yield Problem(
            "checkpoint.every",
            f"in {recipe.steps} steps no checkpoint is written before the end; set at most {recipe.steps}",
        )
    if checkpoint.export_every is not None and checkpoint.export_every > recipe.steps:
        yield Problem(
            "checkpoint.export_every",
            f"in {recipe.steps} steps there is no export but the final one, which is always written; leave "
            f"it out, or set at most {recipe.steps}",
        )


def _evaluation(recipe: RLRecipe) -> Problems:
    evaluation = recipe.evaluation
    if not evaluation.sets:
        usual = EvaluationConfig().model_dump()
        changed = [name for name, value in evaluation.model_dump().items() if value != usual[name]]
        if changed:
            yield Problem(
                "evaluation.sets",
                f"no data set is named, so evaluation.{changed[0]} has no effect; name one, or leave "
                "evaluation out (--set evaluation={})",
            )
    twice = [name for name, count in Counter(evaluation.sets).items() if count > 1]
    if twice:
        yield Problem("evaluation.sets", f"{twice[0]} is named twice; name it once")


RULES: tuple[Rule, ...] = (
    _finite,
    _ignored_by_grpo,
    _grpo_prompts,
    _mirl_prompts,
    _grpo_groups,
    _mirl_groups,
    _gate,
    _rewards,
    _losses,
    _optimizer,
    _intervals,
    _evaluation,
)
