"""Training forward of the charts model; sizes and export are the bundled digits model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mirl_core.training.sft.model import TrainingForward

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration


class ChartsForward(TrainingForward):
    """Forward passes over the model's own modules, without heads beside them."""

    def __init__(self, model: Idefics3ForConditionalGeneration) -> None:
        nn.Module.__init__(self)
        self.model = model

    def word_logits(self, connected: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """How near image tokens are to words' embeddings: [n, 16, text width] -> [n, 16, words]."""
        words = self.model.model.text_model.embed_tokens.weight.detach()
        sharpness = 8.0 / words[word_ids].square().sum(1).mean()
        return torch.as_tensor(connected @ words[word_ids].T * sharpness)
