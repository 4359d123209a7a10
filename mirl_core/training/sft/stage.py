"""A resumable stage of supervised training, whatever its world.

Guarantees: a run that was stopped and resumed ends in the same weights, bit for bit, as an uninterrupted one
(one thread); weights, data and their order depend on the recipe alone. A damaged or lost checkpoint is
refused: a stage has no other to go on from, and beginning anew would overwrite its log.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from mirl_core.errors import ConfigError, TrainingError
from mirl_core.training.recipe import StageRecipe
from mirl_core.training.sft.batches import Tokens
from mirl_core.training.sft.model import ModelForward, ModelShape, build_model
from mirl_core.training.state_files import (
    CHECKPOINT,
    WEIGHTS,
    mark_saved,
    read_state,
    read_whole,
    saved_step,
    write_state,
)
from mirl_core.training.step_lines import Lines, cut_back, made_again, read_lines

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

RecipeT = TypeVar("RecipeT", bound=StageRecipe)
ForwardT = TypeVar("ForwardT", bound=ModelForward)

Part = Literal["text", "vision", "connector", "heads"]
Progress = Callable[[int, dict[str, float]], None]

LOG = "log.jsonl"
TOKENIZER = "tokenizer.json"
_REMEDY = "run that folder's stage again, which writes it from its checkpoint"
_KEYS = ("recipe", "step", "weights", "average", "optimizer")


class Stage(ABC, Generic[RecipeT, ForwardT]):
    """A stage: model, averaged weights, optimiser, and their step.

    A subclass adds its world: tokenizer, forward, rates, losses and dev figures.
    """

    def __init__(self, recipe: RecipeT) -> None:
        """Start the stage, or continue it from the checkpoint in its folder.

        Raises:
            ConfigError: a stage in `init` is unfinished or damaged; the checkpoint is damaged, lost or
                belongs to another recipe; or final weights have no checkpoint beside them.
        """
        self.recipe = recipe
        self.folder = recipe.output
        self.notes: list[str] = []
        """Lines on what of the folder's files was not used as it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        step = saved_step(self.folder)
        if step is not None and not (self.folder / CHECKPOINT).exists():
            raise ConfigError(
                f"output: {self.folder / CHECKPOINT} is missing, and one of step {step} was written: put a "
                "copy there, choose another output folder, or delete the folder to train anew",
                param="output",
            )
        self.tokenizer = prepare_tokenizer(self.folder, recipe.init, self.train_tokenizer)
        self.forward = self._build()
        for folder in recipe.init:
            saved = load_finished(folder, "init")
            try:
                self.start_from(saved)
            except (RuntimeError, LookupError, AttributeError, TypeError) as error:
                raise ConfigError(
                    f"init: {folder / WEIGHTS} holds no weights of this model: {_REMEDY}", param="init"
                ) from error
        self.step = 0
        self._parts: list[Part] = []
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-8
        )
        self.average = {k: v.detach().clone() for k, v in self.forward.state_dict().items()}
        if (self.folder / CHECKPOINT).exists():
            self._load(self.folder / CHECKPOINT)
        elif (self.folder / WEIGHTS).exists():
            raise ConfigError(
                f"{self.folder / WEIGHTS} has no {CHECKPOINT} beside it that names its recipe; choose "
                "another output folder, or remove it to train anew",
                param="output",
            )
        self._cut_log()

    @abstractmethod
    def train_tokenizer(self) -> Tokenizer:
        """Return a new tokenizer, trained on the world's text."""

    @abstractmethod
    def wrap(self, model: Idefics3ForConditionalGeneration) -> ForwardT:
        """Return the world's training forward of a model."""

    @abstractmethod
    def rate(self, part: Part) -> float:
        """Return the learning rate of a part at the current step."""

    @abstractmethod
    def trains(self, part: Part) -> bool:
        """Return whether the stage trains a part at any step."""

    @abstractmethod
    def losses(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss on the current step's batch, and its parts as plain numbers, in nats."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Return figures of the averaged weights on dev data."""

    def start_from(self, saved: dict[str, Any]) -> None:
        """Take over the content of an earlier stage's `weights.pt`."""
        self.forward.load_state_dict(self.unpack(saved))

    def pack(self) -> dict[str, Any]:
        """Return the content of `weights.pt`: the averaged weights."""
        return self.average

    def unpack(self, saved: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the averaged weights in the content of a `weights.pt`."""
        return saved

    def after_measuring(self) -> None:
        """Do what the world does after each measurement on dev data: nothing, by default."""

    def cosine_rate(self, start: int = 0) -> float:
        """Return the current rate of a schedule from step `start`: linear warm-up, then a cosine."""
        recipe, done = self.recipe, self.step - start
        warm = min(1.0, (done + 1) / max(1, recipe.warmup))
        progress = min(1.0, done / max(1, recipe.steps - start))
        return recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self) -> dict[str, float]:
        """Make one optimiser step on the step's batch; return its losses, in nats."""
        loss, figures = self.losses()
        if not math.isfinite(figures["loss"]):
            raise TrainingError(
                f"step {self.step + 1}: the loss is {figures['loss']}: the checkpoint before it stays; a "
                "lower learning rate may help",
                param="learning_rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for p in self.forward.parameters() if p.grad is not None], 1.0)
        for group, part in zip(self.optimizer.param_groups, self._parts, strict=True):
            group["lr"] = self.rate(part)
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for k, v in self.forward.state_dict().items():
                self.average[k].lerp_(v, 1.0 - decay)
        return figures

    def run(self, max_seconds: float | None = None, progress: Progress | None = None) -> bool:
        """Train until the stage is finished (True) or the time is over (False); always leave a checkpoint.

        Raises:
            TrainingError: the loss is not finite; the checkpoint before that step stays.
        """
        if self.step >= self.recipe.steps and (self.folder / WEIGHTS).exists():
            self._check_weights()
            return True
        begin = saved = time.monotonic()
        while self.step < self.recipe.steps:
            figures = self.train_step()
            if progress is not None:
                progress(self.step, figures)
            if self.step % self.recipe.dev_every == 0 or self.step == self.recipe.steps:
                self._log({**figures, **self.measure(), "seconds": time.monotonic() - begin})
                self.after_measuring()
            now = time.monotonic()
            if max_seconds is not None and now - begin > max_seconds:
                break
            if now - saved > self.recipe.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        if self.step < self.recipe.steps:
            return False
        write_state(self.folder / WEIGHTS, self.pack())
        return True

    def averaged(self) -> ForwardT:
        """Return a copy of the model with the averaged weights."""
        twin = self._build()
        twin.load_state_dict(self.average)
        return twin.eval()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "recipe": self.recipe.model_dump_json(),
            "step": self.step,
            "weights": self.forward.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "tokenizer": _digest(self.folder / TOKENIZER),
        }
        write_state(self.folder / CHECKPOINT, state)
        mark_saved(self.folder, self.step)

    def _build(self) -> ForwardT:
        return self.wrap(build_model(ModelShape(), self.tokenizer, self.recipe.seed))

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameters that the stage trains, one per group, and note the part of each."""
        groups: list[dict[str, Any]] = []
        for name, parameter in self.forward.named_parameters():
            part = part_of(name)
            parameter.requires_grad_(self.trains(part))
            if parameter.requires_grad:
                decay = self.recipe.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
                groups.append({"params": [parameter], "weight_decay": decay})
                self._parts.append(part)
        return groups

    def _load(self, path: Path) -> None:
        remedy = "put a copy in its place, or delete the folder to train anew"
        state = read_whole(path, _KEYS, "output", remedy)
        if not self._wrote(state["recipe"]):
            raise ConfigError(
                f"{path} belongs to another recipe; choose another output folder", param="output"
            )
        # Checkpoints of earlier versions name no tokenizer.
        if state.get("tokenizer") not in (None, _digest(self.folder / TOKENIZER)):
            raise ConfigError(
                f"{self.folder / TOKENIZER} has changed since {path} was written; put the old one back, or "
                "delete the folder to train anew",
                param="output",
            )
        self.step = state["step"]
        self.forward.load_state_dict(state["weights"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])

    def _cut_log(self) -> None:
        """Drop the log's lines of steps that are made again."""
        path = self.folder / LOG
        lines = read_lines(path)
        if not lines or lines[-1]["step"] <= self.step:
            return
        self.notes.append(made_again(self.step + 1, lines[-1]["step"], path))
        cut_back(path, self.step)

    def _check_weights(self) -> None:
        """Write the final weights again where they are not those of the checkpoint."""
        path = self.folder / WEIGHTS
        state, damage = read_state(path)
        if damage or not _equal(self.unpack(state), self.average):
            self.notes.append(f"{path} was damaged ({damage or 'other weights'}): written again")
            write_state(path, self.pack())

    def _wrote(self, recipe: str) -> bool:
        """Return whether a checkpoint's recipe, as JSON, is this stage's."""
        # As values, not as text: fields that were added since have their defaults.
        try:
            return type(self.recipe).model_validate_json(recipe) == self.recipe
        except ValidationError:
            return False

    def _log(self, figures: dict[str, float]) -> None:
        log = Lines(self.folder / LOG)
        try:
            log.log(self.step, {name: round(value, 5) for name, value in figures.items()})
        finally:
            log.close()


def token_loss(
    forward: ModelForward,
    chunks: Sequence[Tokens],
    connected: torch.Tensor | None,
    description_weight: float = 1.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the mean loss over the target tokens of all chunks, and the means of both kinds, in nats.

    Args:
        forward: the model.
        chunks: rows as ids; at least one chunk.
        connected: [n, 16, text width] image tokens of the batch's pictures, None without pictures.
        description_weight: weight of a description token; a reasoning token has weight 1.
    """
    sums = {1: torch.zeros(()), 2: torch.zeros(())}
    counts = {1: 0, 2: 0}
    for tokens in chunks:
        hidden = forward.speak(tokens.ids, connected, tokens.owner)[:, :-1]
        in_loss = tokens.kind > 0
        logits = forward.logits(hidden[in_loss])
        nats = cross_entropy(logits, tokens.ids[:, 1:][in_loss], reduction="none")
        for kind in (1, 2):
            kind_nats = nats[tokens.kind[in_loss] == kind]
            sums[kind] = sums[kind] + kind_nats.sum()
            counts[kind] += len(kind_nats)
    loss = (description_weight * sums[1] + sums[2]) / (description_weight * counts[1] + counts[2])
    return loss, {
        "description": sums[1].item() / max(1, counts[1]),
        "reasoning": sums[2].item() / max(1, counts[2]),
    }


def total_loss(
    terms: Sequence[torch.Tensor], figures: dict[str, float]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the sum of the terms, and the figures with this sum as `loss`."""
    loss = torch.stack(list(terms)).sum()
    return loss, {**figures, "loss": loss.item()}


def prepare_tokenizer(folder: Path, init: Sequence[Path], train: Callable[[], Tokenizer]) -> Tokenizer:
    """Return the folder's tokenizer: an existing one, that of the first stage in `init`, or a new one from
    `train`.

    Raises:
        ConfigError: the existing one is damaged.
    """
    path = folder / TOKENIZER
    if not path.exists():
        spare = path.with_suffix(".new")
        if init and (init[0] / TOKENIZER).exists():
            shutil.copyfile(init[0] / TOKENIZER, spare)
        else:
            train().save(str(spare))
        spare.replace(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises no other class.
        raise ConfigError(
            f"{path} is damaged ({' '.join(str(error).split())[:80]}): put a copy in its place, or delete "
            "the folder to train anew",
            param="output",
        ) from error


def load_finished(folder: Path, key: str) -> dict[str, Any]:
    """Return the content of a finished stage's `weights.pt`.

    Args:
        key: of the setting that names the folder.

    Raises:
        ConfigError: the stage is unfinished, or its weights are damaged or not those of its checkpoint.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise ConfigError(f"{path} does not exist: finish the stage of that folder first", param=key)
    return read_whole(path, (), key, _REMEDY)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def part_of(name: str) -> Part:
    """Return the part of the model that a parameter belongs to."""
    if ".vision_model." in name:
        return "vision"
    if ".connector." in name:
        return "connector"
    return "text" if name.startswith("model.") else "heads"
