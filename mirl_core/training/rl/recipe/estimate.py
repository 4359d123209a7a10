"""Estimate of a recipe's cost: sequences and tokens per step, and memory. Loads no weights, uses no
network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mirl_core.algorithm.budget import fanout
from mirl_core.algorithm.gates import GATES
from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.families import find_settings
from mirl_core.training.rl.recipe.checks import model_folder
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.rewards.mi_scorers import count_references

__all__ = ["Estimate", "estimate"]

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds of one step over all ranks, and the parts of a device's memory."""

    descriptions: int
    """Sequences of the first stage; 0 for the planner grpo."""
    chains: int
    """Sequences that may run to an answer."""
    generated_tokens: int
    scored_tokens: int
    trained_tokens: int
    parameters: int | None
    """None: the model is not on this machine, and the recipe assumes no number."""
    memory: tuple[tuple[str, float], ...] = ()
    """Name of each part, and its GiB per rank."""

    def lines(self) -> list[str]:
        """Return the estimate as lines of text."""
        chains = f"{self.chains} {'chains' if self.descriptions else 'trajectories'}"
        sequences = f"{self.descriptions} descriptions and {chains}" if self.descriptions else chains
        tokens = f"{self.generated_tokens:,} tokens generated, {self.scored_tokens:,} scored"
        lines = [
            f"a step: {sequences}",
            f"a step, at most: {tokens}, {self.trained_tokens:,} trained on",
        ]
        if self.parameters is None:
            return [*lines, "parameters: unknown; set assumed_parameters for an estimate of memory"]
        lines.append(f"parameters: {self.parameters:,}")
        lines += [f"memory, {name}: {gib:.2f} GiB" for name, gib in self.memory]
        return [*lines, "memory of activations, KV cache and CUDA itself is not in these figures"]


def estimate(recipe: RLRecipe, world: int = 1) -> Estimate:
    """Estimate the recipe for `world` ranks."""
    rollout, questions = recipe.rollout, recipe.data.questions
    if recipe.planner == "grpo":
        descriptions, chains = 0, questions * rollout.trajectories
        generated = trained = chains * rollout.max_tokens
        scored = 0
    else:
        step = fanout(rollout.gated_options(), rollout.max_tokens, answers=questions, passes=_passes(recipe))
        descriptions, chains, scored = step.descriptions, step.chains, step.scored_tokens
        generated = trained = step.tokens
    parameters = _parameters(recipe)
    memory = () if parameters is None else tuple(_memory(recipe, parameters, world))
    return Estimate(descriptions, chains, generated, scored, trained, parameters, memory)


def _passes(recipe: RLRecipe) -> int:
    """Count the scoring passes over every description: the gate's and the reward's."""
    gate = GATES[recipe.rollout.gate].needs_marginal
    if recipe.description_reward != "mi":
        return int(gate)
    mi = recipe.rewards.mi
    estimator = ESTIMATORS[mi.estimator]
    references = 0
    if estimator.needs_references:
        references = count_references(find_settings(model_folder(recipe)).settings, recipe.data.sets)
    return int(gate) + estimator.passes(references) + (mi.scorer == "frozen")


def _memory(recipe: RLRecipe, parameters: int, world: int) -> Iterator[tuple[str, float]]:
    """Yield weights and optimiser state of one rank, in GiB. Gradients and Adam's two moments are float32."""
    optimizer = recipe.optimizer
    half = optimizer.dtype == "bfloat16"
    shards = world if optimizer.sharding == "fsdp2" else 1
    if optimizer.lora is None:
        yield "trainer (float32 weights, gradients, Adam)", 16 * parameters / shards / _GIB
        if optimizer.kl:
            yield "KL reference", 4 * parameters / shards / _GIB
    else:
        yield "trainer (base weights; adapters are small)", (2 if half else 4) * parameters / shards / _GIB
    if recipe.description_reward == "mi" and recipe.rewards.mi.scorer == "frozen":
        yield "frozen scorer", (2 if half else 4) * parameters / _GIB
    if recipe.rollout.engine == "in-process":
        yield "rollout engine, weights (float32 on the CPU: twice this)", 2 * parameters / _GIB


def _parameters(recipe: RLRecipe) -> int | None:
    """Return the parameters of a model folder, by its files or its config; otherwise the recipe's
    assumption."""
    folder = Path(model_folder(recipe))
    if not (folder / "config.json").is_file():
        return recipe.assumed_parameters
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return sum(map(_stored, files))
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with _quiet(), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    return int(sum(parameter.numel() for parameter in model.parameters()))


def _stored(file: Path) -> int:
    """Count the parameters in a safetensors file, by its header: 8 bytes of length, then JSON."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' advice, which concerns loading weights."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
