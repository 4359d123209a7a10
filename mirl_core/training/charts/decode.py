"""Sampling in plain torch, many rows at once, for measurements during and after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from mirl_core.training.charts.model import ChartsForward
from mirl_core.training.sft import text


@torch.no_grad()
def decode(
    forward: ChartsForward,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    owner: Sequence[int],
    connected: torch.Tensor | None,
    temperature: float,
    generator: torch.Generator,
    limit: int = 160,
) -> list[str]:
    """Sample what follows each prompt, up to the end of the turn, and return it as text.

    Args:
        forward: the model.
        tokenizer: its tokenizer.
        prompts: texts with image tokens; each row is one sample.
        owner: each row's picture in `connected`, -1 for none.
        connected: [n, 16, text width] image tokens, None without pictures.
        temperature: 0 is greedy.
        generator: randomness of the samples.
        limit: longest turn, in tokens; a longer one is cut.
    """
    from transformers import DynamicCache

    inner = forward.model.model.text_model
    pad, end = (int(tokenizer.token_to_id(t) or 0) for t in (text.PAD, text.END))
    banned = [tokenizer.token_to_id(t) for t in text.SPECIAL_TOKENS if t != text.END]
    encoded = [e.ids for e in tokenizer.encode_batch(list(prompts))]
    length = max(map(len, encoded))
    ids = torch.tensor([[pad] * (length - len(e)) + e for e in encoded])
    mask = (torch.arange(length)[None] >= torch.tensor([length - len(e) for e in encoded])[:, None]).long()
    embedded = inner.embed_tokens(ids)
    if connected is not None:
        rows = torch.tensor([o for o in owner if o >= 0])
        at = ids == forward.model.config.image_token_id
        embedded = embedded.masked_scatter(at.unsqueeze(-1), connected[rows].reshape(-1, connected.shape[-1]))
    cache = DynamicCache()
    out = torch.full((len(prompts), limit), pad)
    alive = torch.arange(len(prompts))
    position = mask.cumsum(1) - 1
    for n in range(limit):
        hidden = inner(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=position.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits = forward.logits(hidden)
        logits[:, banned] = -torch.inf
        if temperature:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            chosen = logits.argmax(-1)
        out[alive, n] = chosen
        going = (chosen != end).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < 0.8 * len(alive) or len(going) < 8:
            # Finished rows cost as much as others, so they leave the batch.
            cache.batch_select_indices(going)
            alive, chosen, mask, position = alive[going], chosen[going], mask[going], position[going]
        embedded = inner.embed_tokens(chosen)[:, None]
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], 1)
        position = position[:, -1:] + 1
    texts = []
    for row in out.tolist():
        kept = row[: row.index(end)] if end in row else [t for t in row if t != pad]
        texts.append(tokenizer.decode(kept, skip_special_tokens=False))
    return texts


def split_turn(turn: str) -> tuple[str, str, str]:
    """Return description, chain and answer of a turn; a missing part is empty."""
    parts = []
    for name in ("description", "think", "answer"):
        _, opened, rest = turn.partition(f"<{name}>")
        body, closed, _ = rest.partition(f"</{name}>")
        parts.append(body if opened and closed else "")
    return parts[0], parts[1], parts[2]
