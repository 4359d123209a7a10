"""Training forward of the charts model; sizes and export are those of the digits model."""

from __future__ import annotations

import torch

from mirl_core.training.sft.model import ModelForward


class ChartsForward(ModelForward):
    """Forward passes over the model's own modules, without auxiliary heads."""

    def word_logits(self, connected: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """Map image tokens [n, 16, text width] to their similarity with words' embeddings [n, 16, words]."""
        words = self.model.model.text_model.embed_tokens.weight.detach()
        sharpness = 8.0 / words[word_ids].square().sum(1).mean()
        return torch.as_tensor(connected @ words[word_ids].T * sharpness)
