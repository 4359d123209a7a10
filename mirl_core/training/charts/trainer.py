"""The charts model's trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from mirl_core.training.charts.batches import ChartsBatch, draw_batch
from mirl_core.training.charts.measure import measure
from mirl_core.training.charts.model import ChartsForward
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.charts.rows import corpus
from mirl_core.training.sft import text
from mirl_core.training.sft.stage import Part, Stage, token_loss, total_loss
from mirl_core.training.state_files import write_state

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

TOKENIZER_VOCABULARY = 704
TOKENIZER_TEXTS = 4000


class ChartsTrainer(Stage[ChartsRecipe, ChartsForward]):
    """A stage of the charts model."""

    def train_tokenizer(self) -> Tokenizer:
        """Return a new tokenizer, trained on the charts world's text; a number below 100 is one token."""
        return text.build_tokenizer(corpus(TOKENIZER_TEXTS), TOKENIZER_VOCABULARY, digits=2)

    def wrap(self, model: Idefics3ForConditionalGeneration) -> ChartsForward:
        """Return the forward without auxiliary heads."""
        return ChartsForward(model)

    def trains(self, part: Part) -> bool:
        """Return whether the recipe's factor on the part's rate is above 0."""
        return self._factor(part) > 0

    def rate(self, part: Part) -> float:
        """Return the learning rate of a part at the current step."""
        return self.cosine_rate() * self._factor(part)

    def losses(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss on the current step's batch, and its parts in nats per token."""
        return losses(self.forward, draw_batch(self.recipe, self.tokenizer, self.step), self.recipe)

    def measure(self) -> dict[str, float]:
        """Return figures of the averaged weights on dev data."""
        recipe = self.recipe
        speaks = bool(recipe.rows_per_image or recipe.text_rows)
        return measure(self.averaged(), self.tokenizer, bool(recipe.images), speaks)

    def after_measuring(self) -> None:
        """Write the averaged weights as `average-STEP.pt`."""
        # How long to train is chosen afterwards, from these.
        write_state(self.folder / f"average-{self.step}.pt", self.average)

    def _factor(self, part: Part) -> float:
        return self.recipe.vision_rate if part in ("vision", "connector") else self.recipe.text_rate


def losses(
    forward: ChartsForward, batch: ChartsBatch, recipe: ChartsRecipe
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the stage's loss, and its parts as plain numbers in nats per token."""
    figures: dict[str, float] = {}
    terms: list[torch.Tensor] = []
    connected = None
    if batch.pixels is not None and batch.words is not None:
        connected = forward.connect(forward.see(batch.pixels))
        if recipe.word_weight:
            vocabulary = torch.arange(forward.model.config.text_config.vocab_size)
            logits = forward.word_logits(connected, vocabulary)
            nats = cross_entropy(logits.flatten(0, 1), batch.words.flatten(), reduction="none").view(-1, 16)
            values, others = nats[:, 1:12:2].mean(), nats[:, 0::2].mean()
            # Names and filler are the same for every picture and are learned at once.
            terms.append(recipe.word_weight * (values + 0.2 * others))
            figures |= {"value_words": values.item(), "other_words": others.item()}
    if batch.chunks:
        loss, parts = token_loss(forward, batch.chunks, connected)
        terms.append(loss)
        figures |= parts
    return total_loss(terms, figures)
