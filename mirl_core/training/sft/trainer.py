"""The digits model's trainer, in three stages: `lm`, `vision`, `joint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from mirl_core.tasks.worlds.digits import COLOURS
from mirl_core.training.recipe import Recipe
from mirl_core.training.sft import text
from mirl_core.training.sft.batches import Batch, Pictures, draw_batch
from mirl_core.training.sft.dev_figures import measure
from mirl_core.training.sft.model import TrainingForward
from mirl_core.training.sft.rows import corpus
from mirl_core.training.sft.stage import Part, Stage, token_loss, total_loss

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

TOKENIZER_VOCABULARY = 704
TOKENIZER_TEXTS = 6000

_TRAINED: dict[str, tuple[Part, ...]] = {
    "lm": ("text",),
    "vision": ("vision", "heads"),
    "joint": ("text", "vision", "heads", "connector"),
}
_TOWER = ("model.model.vision_model.", "cell_digit", "cell_colour", "shape", "aux_norm")


class Trainer(Stage[Recipe, TrainingForward]):
    """A stage of the digits model."""

    def train_tokenizer(self) -> Tokenizer:
        """Return a new tokenizer, trained on the text of digits and easy-VQA."""
        return train_tokenizer()

    def wrap(self, model: Idefics3ForConditionalGeneration) -> TrainingForward:
        """Return the forward with auxiliary heads."""
        return TrainingForward(model)

    def start_from(self, saved: dict[str, Any]) -> None:
        """Take over the tower of a `vision` stage, the rest of an `lm` stage, all of a `joint` stage."""
        stage, weights = saved["stage"], saved["weights"]
        keep = {
            k: v
            for k, v in weights.items()
            if stage == "joint" or k.startswith(_TOWER) == (stage == "vision")
        }
        self.forward.load_state_dict({**self.forward.state_dict(), **keep})

    def pack(self) -> dict[str, Any]:
        """Return the averaged weights with the stage that they are from."""
        return {"stage": self.recipe.stage, "weights": self.average}

    def unpack(self, saved: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the averaged weights without their stage."""
        return dict(saved["weights"])

    def trains(self, part: Part) -> bool:
        """Return whether the stage trains a part at any step."""
        return part in _TRAINED[self.recipe.stage]

    def rate(self, part: Part) -> float:
        """Return the learning rate of a part at the current step; the connector starts before the others."""
        recipe = self.recipe
        if self.step < recipe.connector_steps:
            return recipe.learning_rate * min(1.0, (self.step + 1) / 50) if part == "connector" else 0.0
        return self.cosine_rate(recipe.connector_steps)

    def losses(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss on the current step's batch, and its parts in nats per token or per reading."""
        batch = draw_batch(self.recipe, self.tokenizer, self.step)
        return losses(self.forward, batch, self.recipe, self.tokenizer)

    def measure(self) -> dict[str, float]:
        """Return figures of the averaged weights on dev data."""
        return measure(self.averaged(), self.tokenizer, self.recipe.stage)


def train_tokenizer() -> Tokenizer:
    """Return the tokenizer of the digits model, trained on the text of digits and easy-VQA."""
    return text.build_tokenizer(corpus(TOKENIZER_TEXTS), TOKENIZER_VOCABULARY)


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
            readings = {"digit": cross_entropy(digit.flatten(0, 1), batch.pictures.digit.flatten())}
            readings["colour"] = cross_entropy(colour.flatten(0, 1), batch.pictures.colour.flatten())
            if len(shape):
                readings["shape"] = cross_entropy(shape, batch.pictures.shape[:, 0])
                readings["shape_colour"] = cross_entropy(shape_colour, batch.pictures.shape[:, 1])
            terms += [weight * (2.0 if k == "digit" else 0.5) * v for k, v in readings.items()]
            figures |= {k: v.item() for k, v in readings.items()}
        connected = forward.connect(features) if recipe.stage == "joint" else None
        if recipe.word_weight and connected is not None:
            terms.append(
                recipe.word_weight * _word_loss(forward, connected, batch.pictures, tokenizer, figures)
            )
    if batch.chunks:
        loss, parts = token_loss(forward, batch.chunks, connected, recipe.description_weight)
        terms.append(loss)
        figures |= parts
    return total_loss(terms, figures)


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
