"""Log-probabilities of tokens and of the likeliest alternatives, from vLLM's flat lists.

vLLM lists the sampled token (in a prompt: the prompt's own) first at every position, then the likeliest
tokens, with that token again if it is among them. The lists are read directly because vLLM's dicts cost an
object per entry.

vLLM decodes every alternative at every position, which takes longer than sampling from a small model, unless
the request switches detokenization off. Such a request stops by token (`engines.common.samples`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirl_core.engines.common.samples import token_confidence

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs


def token_logprobs(
    flat: FlatLogprobs | None, count: int, alternatives: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return log p of each of `count` sampled tokens, and its confidence over `alternatives`; nats.

    The confidences are empty for 0 alternatives.
    """
    if flat is None or not count:
        return (), ()
    starts = flat.start_indices[:count]
    values = tuple(float(flat.logprobs[start]) for start in starts)
    if not alternatives:
        return values, ()
    ends = flat.end_indices[:count]
    # Another setting (`top_logprobs`) may have requested more tokens than `alternatives`.
    likeliest = (
        flat.logprobs[start + 1 : end][:alternatives] for start, end in zip(starts, ends, strict=True)
    )
    return values, tuple(token_confidence(logprobs) for logprobs in likeliest)


def likeliest_tokens(
    flat: FlatLogprobs | None, count: int, top: int
) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Return the `top` likeliest tokens at each of `count` positions with their log p, nats; empty for 0."""
    if flat is None or not top:
        return ()
    spans = zip(flat.start_indices[:count], flat.end_indices[:count], strict=True)
    return tuple(
        tuple(zip(flat.token_ids[start + 1 : end], flat.logprobs[start + 1 : end], strict=True))[:top]
        for start, end in spans
    )


def last_positions(flat: FlatLogprobs, count: int) -> list[dict[int, float]]:
    """Return log p by token id at each of the last `count` positions, all entries that vLLM lists; nats."""
    if not count:
        return []
    spans = zip(flat.start_indices[-count:], flat.end_indices[-count:], strict=True)
    return [
        dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True)) for start, end in spans
    ]
