"""Sampling of tokens from logits, with vLLM's settings applied in vLLM's order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mirl_core.engines.base import Sampling


class TokenChooser:
    """Samples the tokens of one branch.

    Args:
        sampling: the settings; `seed` is the branch's seed.
        prompt_ids: token ids before the branch, length P, for the repetition penalty.
        banned: token ids that are never sampled.
        vocab_size: V, the width of the logits.
    """

    def __init__(
        self, sampling: Sampling, prompt_ids: Sequence[int], banned: Sequence[int], vocab_size: int
    ) -> None:
        self._sampling = sampling
        self._banned = torch.tensor(list(banned), dtype=torch.long)
        self._counts = torch.zeros(vocab_size)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool)
        self._seen[torch.tensor(list(prompt_ids), dtype=torch.long)] = True
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token from raw logits, shape (V,), float32, on the CPU."""
        sampling = self._sampling
        logits = logits.clone()
        logits[self._banned] = -torch.inf
        penalty = sampling.repetition_penalty
        if penalty != 1.0:
            penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self._seen, penalised, logits)
        logits -= sampling.frequency_penalty * self._counts
        logits -= sampling.presence_penalty * (self._counts > 0)
        if sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            token = self._draw(logits / sampling.temperature)
        self._counts[token] += 1
        self._seen[token] = True
        return token

    def _draw(self, logits: torch.Tensor) -> int:
        sampling = self._sampling
        if sampling.min_p > 0:
            probabilities = logits.softmax(-1)
            logits[probabilities < sampling.min_p * probabilities.max()] = -torch.inf
        if 0 < sampling.top_k < logits.numel():
            logits[logits < logits.topk(sampling.top_k).values[-1]] = -torch.inf
        if sampling.top_p < 1:
            ordered, order = logits.softmax(-1).sort(descending=True)
            # A token stays while the mass before it is below top-p; the first always stays.
            logits[order[ordered.cumsum(-1) - ordered >= sampling.top_p]] = -torch.inf
        return int(torch.multinomial(logits.softmax(-1), 1, generator=self._generator))
