"""The likeliest alternatives of every sampled token, read from vLLM without the price of spelling them.

vLLM turns every alternative at every position into text, which takes longer than sampling a small model, and
leaves it only where a request detokenizes nothing; stop strings then don't work. So a request that asks for
alternatives stops by token where each stop string is one token, and what a model spelled otherwise is cut
here: the sample is the one that stop strings would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mirl_core.engines.base import Sample

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs


def stop_by_token(stop: Sequence[str], encode: Callable[[str], tuple[int, ...]]) -> dict[str, Any] | None:
    """vLLM's sampling fields for stopping without detokenizing; None where a stop string isn't one token."""
    tokens = [encode(text) for text in stop]
    if any(len(ids) != 1 for ids in tokens):
        return None
    return {"stop_token_ids": [ids[0] for ids in tokens], "detokenize": False}


def cut_at_stop_string(sample: Sample, stop: Sequence[str], decode: Callable[[Sequence[int]], str]) -> Sample:
    """The sample with its text, ended by the token that completes the first stop string."""
    ids = sample.token_ids
    text = decode(ids)
    ends = [at + len(end) for end in stop if (at := text.find(end)) >= 0]
    if not ends or min(ends) == len(text):
        return replace(sample, text=text)
    length = next(n for n in range(1, len(ids) + 1) if any(end in decode(ids[:n]) for end in stop))
    return replace(
        sample,
        token_ids=ids[:length],
        logprobs=sample.logprobs[:length],
        text=text[: min(ends)],
        finish_reason="stop",
        confidence=sample.confidence[:length],
        likeliest=sample.likeliest[:length],
    )


def token_logprobs(
    flat: FlatLogprobs | None, count: int, alternatives: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Log p of each of `count` sampled tokens, and its confidence where there are `alternatives`; nats.

    vLLM puts the sampled token first at every position, then the likeliest ones, the sampled one once more
    if it is among them. Read from the flat lists: as dicts they would cost an object per entry.
    """
    if flat is None or not count:
        return (), ()
    starts = flat.start_indices[:count]
    values = tuple(float(flat.logprobs[start]) for start in starts)
    if not alternatives:
        return values, ()
    ends = flat.end_indices[:count]
    # As many as were asked for: others may have been looked at for other reasons.
    likeliest = (
        flat.logprobs[start + 1 : end][:alternatives] for start, end in zip(starts, ends, strict=True)
    )
    return values, tuple(-sum(these) / len(these) for these in likeliest)


def likeliest_tokens(
    flat: FlatLogprobs | None, count: int, top: int
) -> tuple[tuple[tuple[int, float], ...], ...]:
    """The `top` likeliest tokens at each of `count` positions, with their log p; nats; empty for 0."""
    if flat is None or not top:
        return ()
    places = zip(flat.start_indices[:count], flat.end_indices[:count], strict=True)
    return tuple(
        tuple(zip(flat.token_ids[start + 1 : end], flat.logprobs[start + 1 : end], strict=True))[:top]
        for start, end in places
    )
