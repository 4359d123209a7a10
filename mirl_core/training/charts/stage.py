"""One resumable stage of the charts model's training.

Guarantees: a run that was stopped and resumed ends in the same weights, bit for bit, as one that was not (one
thread); weights, data and their order come from the recipe's seed alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from mirl_core.errors import ConfigError
from mirl_core.training.charts.batches import ChartsBatch, draw_batch
from mirl_core.training.charts.measure import measure
from mirl_core.training.charts.model import ChartsForward
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.charts.rows import corpus
from mirl_core.training.sft import text
from mirl_core.training.sft.model import ModelShape, build_model

TOKENIZER_VOCABULARY = 704
TOKENIZER_TEXTS = 4000

Progress = Callable[[int, dict[str, float]], None]


class ChartsTrainer:
    """A stage's model, averaged weights and optimiser, and the step they stand at."""

    def __init__(self, recipe: ChartsRecipe) -> None:
        self.recipe = recipe
        self.folder = recipe.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = prepare_tokenizer(self.folder, recipe.init)
        self.forward = ChartsForward(build_model(ModelShape(), self.tokenizer, recipe.seed))
        if recipe.init is not None:
            path = recipe.init / "weights.pt"
            if not path.exists():
                raise ConfigError(f"{path} does not exist: finish that stage first", param="init")
            self.forward.load_state_dict(torch.load(path, weights_only=True))
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-8
        )
        self.average = {k: v.detach().clone() for k, v in self.forward.state_dict().items()}
        checkpoint = self.folder / "checkpoint.pt"
        if checkpoint.exists():
            self._load(checkpoint)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters that the stage trains, each with the factor on its learning rate."""
        groups: list[dict[str, Any]] = []
        for name, parameter in self.forward.named_parameters():
            sees = ".vision_model." in name or ".connector." in name
            factor = self.recipe.vision_rate if sees else self.recipe.text_rate
            parameter.requires_grad_(factor > 0)
            if factor:
                decay = self.recipe.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
                groups.append({"params": [parameter], "weight_decay": decay, "factor": factor})
        return groups

    def rate(self) -> float:
        """Learning rate at the current step."""
        recipe = self.recipe
        warm = min(1.0, (self.step + 1) / max(1, recipe.warmup))
        progress = min(1.0, self.step / recipe.steps)
        return recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self) -> dict[str, float]:
        """One optimiser step on the step's own batch; returns its losses, in nats."""
        batch = draw_batch(self.recipe, self.tokenizer, self.step)
        loss, figures = losses(self.forward, batch, self.recipe)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for p in self.forward.parameters() if p.grad is not None], 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["factor"]
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for k, v in self.forward.state_dict().items():
                self.average[k].lerp_(v, 1.0 - decay)
        return figures

    def run(self, max_seconds: float | None = None, progress: Progress | None = None) -> bool:
        """Train until the stage is finished (True) or time is over (False); always leaves a checkpoint."""
        begin = saved = time.monotonic()
        while self.step < self.recipe.steps:
            figures = self.train_step()
            if progress is not None:
                progress(self.step, figures)
            if self.step % self.recipe.dev_every == 0 or self.step == self.recipe.steps:
                self._log({**figures, **self.measure(), "seconds": time.monotonic() - begin})
                # How much to under-train is chosen afterwards, from these.
                _write(self.folder / f"average-{self.step}.pt", self.average)
            now = time.monotonic()
            if max_seconds is not None and now - begin > max_seconds:
                break
            if now - saved > self.recipe.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        if self.step < self.recipe.steps:
            return False
        _write(self.folder / "weights.pt", self.average)
        return True

    def averaged(self) -> ChartsForward:
        """A copy of the model with the averaged weights."""
        twin = ChartsForward(build_model(ModelShape(), self.tokenizer, self.recipe.seed))
        twin.load_state_dict(self.average)
        return twin.eval()

    def measure(self) -> dict[str, float]:
        """Figures of the averaged weights on dev data."""
        recipe = self.recipe
        speaks = bool(recipe.rows_per_image or recipe.text_rows)
        return measure(self.averaged(), self.tokenizer, bool(recipe.images), speaks)

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


def prepare_tokenizer(folder: Path, init: Path | None) -> Tokenizer:
    """The folder's tokenizer: there already, that of the stage before, or trained on the world's text."""
    path = folder / "tokenizer.json"
    if not path.exists() and init is not None and (init / "tokenizer.json").exists():
        shutil.copyfile(init / "tokenizer.json", path)
    if not path.exists():
        text.build_tokenizer(corpus(TOKENIZER_TEXTS), TOKENIZER_VOCABULARY, digits=2).save(str(path))
    return Tokenizer.from_file(str(path))


def losses(
    forward: ChartsForward, batch: ChartsBatch, recipe: ChartsRecipe
) -> tuple[torch.Tensor, dict[str, float]]:
    """The stage's loss, and its parts as plain numbers in nats per token."""
    figures: dict[str, float] = {}
    terms: list[torch.Tensor] = []
    connected = None
    if batch.pixels is not None and batch.words is not None:
        connected = forward.connect(forward.see(batch.pixels))
        if recipe.word_weight:
            known = torch.arange(forward.model.config.text_config.vocab_size)
            logits = forward.word_logits(connected, known)
            nats = cross_entropy(logits.flatten(0, 1), batch.words.flatten(), reduction="none").view(-1, 16)
            values, others = nats[:, 1:12:2].mean(), nats[:, 0::2].mean()
            # Names and filler are the same for every picture and are learned at once.
            terms.append(recipe.word_weight * (values + 0.2 * others))
            figures |= {"value_words": values.item(), "other_words": others.item()}
    sums = {1: torch.zeros(()), 2: torch.zeros(())}
    counts = {1: 0, 2: 0}
    for tokens in batch.chunks:
        hidden = forward.speak(tokens.ids, connected, tokens.owner)[:, :-1]
        wanted = tokens.kind > 0
        logits = forward.logits(hidden[wanted])
        nats = cross_entropy(logits, tokens.ids[:, 1:][wanted], reduction="none")
        for kind in (1, 2):
            chosen = nats[tokens.kind[wanted] == kind]
            sums[kind] = sums[kind] + chosen.sum()
            counts[kind] += len(chosen)
    if batch.chunks:
        terms.append((sums[1] + sums[2]) / (counts[1] + counts[2]))
        figures["description"] = sums[1].item() / max(1, counts[1])
        figures["reasoning"] = sums[2].item() / max(1, counts[2])
    loss = torch.stack(terms).sum()
    figures["loss"] = loss.item()
    return loss, figures


def _write(path: Path, state: dict[str, Any]) -> None:
    spare = path.with_suffix(".new")
    torch.save(state, spare)
    os.replace(spare, path)
