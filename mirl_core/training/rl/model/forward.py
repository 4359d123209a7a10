"""The forward pass of training: a batch in, log-probabilities of its trained tokens out.

Two modes that give the same numbers:

- prompts once: the distinct prompts run first, images included, and every row reads its prompt's keys and
  values. A step of 22 rows per prompt then costs one prompt and 22 completions instead of 22 of both.
- rows whole: every row carries its prompt. For models whose layers keep something other than keys and
  values of all tokens (sliding windows, recurrent states).

Only trained positions go through the LM head, `chunk` of them at a time, and each chunk's logits are
recomputed in the backward pass. So logits never take more than chunk × vocabulary, three times in float32
(logits, their exponentials, their gradient): 1.9 GB for 1,024 positions of 152k tokens, where all logits of
64 rows of 512 tokens would take 60 GB.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from mirl_core.training.rl.model.encoding import Batch, prompt_inputs, row_inputs


class _KeptLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the prompts. A second write, as a recomputed layer makes it, changes nothing."""

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values


class _ReadLayer(DynamicLayer):  # type: ignore[misc]
    """Each row's prompt, read before the row's own keys and values; nothing is stored."""

    def __init__(self, kept: _KeptLayer, owner: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.owner, self.is_initialized = kept.keys, kept.values, owner, True

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return (
            torch.cat([self.keys[self.owner], keys], dim=-2),
            torch.cat([self.values[self.owner], values], dim=-2),
        )


class LogProbs(nn.Module):
    """Wrapper of a transformers image-text-to-text model, which DDP and FSDP2 wrap in turn.

    Args:
        model: its `base_model` gives hidden states, its output embeddings are the LM head.
        banned: token ids that are never sampled, and so have no probability.
        chunk: positions that go through the LM head at once.
        autocast: dtype of the forward pass; None: the weights' dtype.
        prompts_once: the mode; None: prompts once where the model allows it.
    """

    def __init__(
        self,
        model: Any,
        banned: Collection[int] = (),
        chunk: int = 1024,
        autocast: torch.dtype | None = None,
        prompts_once: bool | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        self.autocast = autocast
        self.banned = sorted(banned)
        self.prompts_once = keeps_plain_keys(model) if prompts_once is None else prompts_once

    def forward(self, batch: Batch) -> Tensor:
        """Return log p of each trained token: (B, T) float32, or float64 for a float64 model; 0 elsewhere;
        nats."""
        device = batch.completions.device
        with torch.autocast(device.type, self.autocast) if self.autocast else nullcontext():
            hidden = self._prompts_once(batch) if self.prompts_once else self._rows_whole(batch)
            flat = self._through_head(hidden[batch.mask], batch.completions[batch.mask])
        return flat.new_zeros(batch.mask.shape).masked_scatter(batch.mask, flat)

    def _prompts_once(self, batch: Batch) -> Tensor:
        """Return (B, T, D): the hidden state that predicts each token of the completions."""
        base, inputs = self.model.base_model, prompt_inputs(batch)
        prompt_mask, count = inputs["attention_mask"], len(batch.prompts)
        if hasattr(base, "rope_deltas"):
            # The value of an earlier batch would be used for prompts without images.
            base.rope_deltas = None
        layers = [_KeptLayer() for _ in range(self.model.config.get_text_config().num_hidden_layers)]
        prompts = base(**inputs, past_key_values=Cache(layers=layers), use_cache=True).last_hidden_state
        lengths = prompt_mask.sum(dim=1)
        last = prompts[torch.arange(count, device=prompt_mask.device), lengths - 1]
        # The last token of a completion predicts nothing that is trained on.
        token_ids, present = batch.completions[:, :-1], batch.present[:, :-1]
        start = lengths[batch.owner].unsqueeze(1)
        positions = start + torch.arange(token_ids.shape[1], device=start.device)
        if getattr(base, "rope_deltas", None) is not None:
            # Qwen's positions in time, height and width: equal for text, and offset by the images' extent.
            positions = (positions + base.rope_deltas[batch.owner].to(positions)).expand(3, -1, -1)
        rows = base(
            input_ids=token_ids,
            attention_mask=torch.cat([prompt_mask[batch.owner], present.long()], dim=1),
            position_ids=positions,
            past_key_values=Cache(layers=[_ReadLayer(layer, batch.owner) for layer in layers]),
            use_cache=True,
        ).last_hidden_state
        return torch.cat([last[batch.owner].unsqueeze(1), rows], dim=1)

    def _rows_whole(self, batch: Batch) -> Tensor:
        """Return the same as `_prompts_once`."""
        hidden: Tensor = self.model.base_model(**row_inputs(batch), use_cache=False).last_hidden_state
        lengths = torch.tensor([len(prompt) for prompt in batch.prompts], device=hidden.device)
        columns = torch.arange(batch.completions.shape[1], device=hidden.device)
        # Positions right of a short row's end are never read, but must exist.
        positions = (lengths[batch.owner].unsqueeze(1) - 1 + columns).clamp(max=hidden.shape[1] - 1)
        return hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))

    def _through_head(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Map (n, D) hidden states and (n,) tokens to (n,) log-probabilities."""
        parts = [
            checkpoint(self._head, *chunk, use_reentrant=False)
            # At least one chunk: without a trained token gradients are zero, but they must exist.
            for chunk in zip(torch.split(hidden, self.chunk), torch.split(targets, self.chunk), strict=True)
        ]
        return torch.cat(parts)

    def _head(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits.index_fill_(-1, torch.tensor(self.banned, device=logits.device, dtype=torch.int64), -torch.inf)
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def keeps_plain_keys(model: Any) -> bool:
    """Return whether every layer of the language model keeps the keys and values of all tokens, and nothing
    else."""
    if "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def checkpoint_layers(model: Any) -> None:
    """Recompute every layer's activations in the backward pass; the layers stay in evaluation mode.

    transformers' own switch has no effect in evaluation mode and drops the cache through which prompts are
    shared.
    """
    for layer in repeated_layers(model):
        layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of language model and vision tower: the units of recomputation and
    sharding."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            layers.append(module)
            inside.update(id(child) for child in module.modules())
    return layers
