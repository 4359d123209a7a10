"""Supervised training of the bundled model in three resumable stages.

Guarantees: a run that was stopped and resumed ends in the same weights, bit for bit, as an uninterrupted one
(one thread); weights, data and their order depend on the recipe's seed alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from mirl_core.errors import ConfigError
from mirl_core.tasks.worlds.digits import COLOURS
from mirl_core.training.recipe import Recipe
from mirl_core.training.sft import text
from mirl_core.training.sft.batches import Batch, Pictures, draw_batch
from mirl_core.training.sft.dev_figures import measure
from mirl_core.training.sft.model import ModelShape, TrainingForward, build_model
from mirl_core.training.sft.rows import corpus

TOKENIZER_VOCABULARY = 704
TOKENIZER_TEXTS = 6000

Progress = Callable[[int, dict[str, float]], None]


class Trainer:
    """A stage: model, averaged weights, optimiser, and their step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = recipe.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = prepare_tokenizer(self.folder, recipe.init)
        self.forward = TrainingForward(build_model(ModelShape(), self.tokenizer, recipe.seed))
        for folder in recipe.init:
            self._load_stage(folder)
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-8
        )
        self.average = {k: v.detach().clone() for k, v in self.forward.state_dict().items()}
        checkpoint = self.folder / "checkpoint.pt"
        if checkpoint.exists():
            self._load(checkpoint)

    def _load_stage(self, folder: Path) -> None:
        path = folder / "weights.pt"
        if not path.exists():
            raise ConfigError(f"{path} does not exist: finish the stage of that folder first", param="init")
        saved = torch.load(path, weights_only=True)
        stage, weights = saved["stage"], saved["weights"]
        tower = ("model.model.vision_model.", "cell_digit", "cell_colour", "shape", "aux_norm")
        keep = {
            k: v for k, v in weights.items() if stage == "joint" or k.startswith(tower) == (stage == "vision")
        }
        self.forward.load_state_dict({**self.forward.state_dict(), **keep})

    def _groups(self) -> list[dict[str, Any]]:
        """Return parameter groups by part, so that each part has its own schedule; only the stage's parts are
        trained."""
        groups: list[dict[str, Any]] = []
        for name, parameter in self.forward.named_parameters():
            part = _part(name)
            trained = {
                "lm": ("text",),
                "vision": ("vision", "heads"),
                "joint": ("text", "vision", "heads", "connector"),
            }
            parameter.requires_grad_(part in trained[self.recipe.stage])
            if parameter.requires_grad:
                decay = self.recipe.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
                groups.append({"params": [parameter], "weight_decay": decay, "part": part})
        return groups

    def rate(self, part: str) -> float:
        """Return the learning rate of a part at the current step."""
        r, start = self.recipe, self.recipe.connector_steps
        if self.step < start:
            return r.learning_rate * min(1.0, (self.step + 1) / 50) if part == "connector" else 0.0
        done = self.step - start
        warm = min(1.0, (done + 1) / max(1, r.warmup))
        progress = min(1.0, done / max(1, r.steps - start))
        return r.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self) -> dict[str, float]:
        """Make one optimiser step on the step's batch; return its losses, in nats."""
        batch = draw_batch(self.recipe, self.tokenizer, self.step)
        loss, figures = losses(self.forward, batch, self.recipe, self.tokenizer)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for p in self.forward.parameters() if p.grad is not None], 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(group["part"])
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for k, v in self.forward.state_dict().items():
                self.average[k].lerp_(v, 1.0 - decay)
        return figures

    def run(self, max_seconds: float | None = None, progress: Progress | None = None) -> bool:
        """Train until the stage is finished (True) or the time is over (False); always leave a checkpoint."""
        begin = saved = time.monotonic()
        while self.step < self.recipe.steps:
            figures = self.train_step()
            if progress is not None:
                progress(self.step, figures)
            if self.step % self.recipe.dev_every == 0 or self.step == self.recipe.steps:
                self._log({**figures, **self.measure(), "seconds": time.monotonic() - begin})
            now = time.monotonic()
            if max_seconds is not None and now - begin > max_seconds:
                break
            if now - saved > self.recipe.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        if self.step < self.recipe.steps:
            return False
        _write(self.folder / "weights.pt", {"stage": self.recipe.stage, "weights": self.average})
        return True

    def averaged(self) -> TrainingForward:
        """Return a copy of the model with the averaged weights."""
        twin = TrainingForward(build_model(ModelShape(), self.tokenizer, self.recipe.seed))
        twin.load_state_dict(self.average)
        return twin.eval()

    def measure(self) -> dict[str, float]:
        """Return figures of the averaged weights on dev data."""
        return measure(self.averaged(), self.tokenizer, self.recipe.stage)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "recipe": self.recipe.model_dump_json(),
            "step": self.step,
            "weights": self.forward.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        _write(self.folder / "checkpoint.pt", state)

    def _load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if state["recipe"] != self.recipe.model_dump_json():
            raise ConfigError(
                f"{path} belongs to another recipe; choose another output folder", param="output"
            )
        self.step = state["step"]
        self.forward.load_state_dict(state["weights"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])

    def _log(self, figures: dict[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": self.step, **{k: round(v, 5) for k, v in figures.items()}}) + "\n")


def prepare_tokenizer(folder: Path, init: Sequence[Path] = ()) -> Tokenizer:
    """Return the folder's tokenizer: an existing one, that of the first stage in `init`, or a new one trained
    on the worlds' text."""
    path = folder / "tokenizer.json"
    if not path.exists() and init and (init[0] / "tokenizer.json").exists():
        shutil.copyfile(init[0] / "tokenizer.json", path)
    if not path.exists():
        text.build_tokenizer(corpus(TOKENIZER_TEXTS), TOKENIZER_VOCABULARY).save(str(path))
    return Tokenizer.from_file(str(path))


def losses(
    forward: TrainingForward, batch: Batch, recipe: Recipe, tokenizer: Tokenizer
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the stage's loss, and its parts as plain numbers in nats per token or per reading."""
    figures: dict[str, float] = {}
    terms: list[torch.Tensor] = []
    connected = None
    if batch.pictures is not None:
        features = forward.see(batch.pictures.pixels)
        weight = 1.0 if recipe.stage == "vision" else recipe.auxiliary
        if weight:
            n = len(batch.pictures.digit)
            digit, colour = forward.read_cells(features[:n])
            shape, shape_colour = forward.read_shape(features[n:])
            parts = {"digit": cross_entropy(digit.flatten(0, 1), batch.pictures.digit.flatten())}
            parts["colour"] = cross_entropy(colour.flatten(0, 1), batch.pictures.colour.flatten())
            if len(shape):
                parts["shape"] = cross_entropy(shape, batch.pictures.shape[:, 0])
                parts["shape_colour"] = cross_entropy(shape_colour, batch.pictures.shape[:, 1])
            terms += [weight * (2.0 if k == "digit" else 0.5) * v for k, v in parts.items()]
            figures |= {k: v.item() for k, v in parts.items()}
        connected = forward.connect(features) if recipe.stage == "joint" else None
        if recipe.word_weight and connected is not None:
            terms.append(
                recipe.word_weight * _word_loss(forward, connected, batch.pictures, tokenizer, figures)
            )
    sums = {1: torch.zeros(()), 2: torch.zeros(())}
    counts = {1: 0, 2: 0}
    for tokens in batch.chunks:
        hidden = forward.speak(tokens.ids, connected, tokens.owner)[:, :-1]
        in_loss = tokens.kind > 0
        logits = forward.logits(hidden[in_loss])
        nats = cross_entropy(logits, tokens.ids[:, 1:][in_loss], reduction="none")
        for kind in (1, 2):
            kind_nats = nats[tokens.kind[in_loss] == kind]
            sums[kind] = sums[kind] + kind_nats.sum()
            counts[kind] += len(kind_nats)
    if batch.chunks:
        description_weight = recipe.description_weight
        terms.append((description_weight * sums[1] + sums[2]) / (description_weight * counts[1] + counts[2]))
        figures["description"] = sums[1].item() / max(1, counts[1])
        figures["reasoning"] = sums[2].item() / max(1, counts[2])
    loss = torch.stack(terms).sum()
    figures["loss"] = loss.item()
    return loss, figures


def _word_loss(
    forward: TrainingForward,
    connected: torch.Tensor,
    pictures: Pictures,
    tokenizer: Tokenizer,
    figures: dict[str, float],
) -> torch.Tensor:
    """Return the nats by which image tokens fail to name digit, colour and cell as words; an empty cell reads
    " no"."""
    n = len(pictures.digit)
    names = [*(f" {d}" for d in range(10)), " no"]
    digit_ids = torch.tensor([tokenizer.encode(w).ids[0] for w in names])
    colour_ids = torch.tensor([tokenizer.encode(f" {w}").ids[0] for w in (*COLOURS, "no")])
    digit, colour, cell = forward.read_words(connected[:n], digit_ids, colour_ids)
    target_colour = torch.where(pictures.colour < 0, 4, pictures.colour)
    parts = {
        "digit_word": cross_entropy(digit.flatten(0, 2), pictures.digit.flatten().repeat_interleave(2)),
        "colour_word": cross_entropy(colour.flatten(0, 2), target_colour.flatten().repeat_interleave(2)),
        "cell_word": cross_entropy(cell.flatten(0, 2), torch.arange(4).repeat(n).repeat_interleave(4)),
    }
    figures |= {k: v.item() for k, v in parts.items()}
    return torch.stack(list(parts.values())).sum()


def _part(name: str) -> str:
    if ".vision_model." in name:
        return "vision"
    if ".connector." in name:
        return "connector"
    return "text" if name.startswith("model.") else "heads"


def _write(path: Path, state: dict[str, Any]) -> None:
    spare = path.with_suffix(".new")
    torch.save(state, spare)
    os.replace(spare, path)
