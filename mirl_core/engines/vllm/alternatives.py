"""The likeliest alternatives of every sampled token, read from vLLM without the price of spelling them.

vLLM turns every alternative at every position into text, which takes longer than sampling a small model, and
leaves it only where a request detokenizes nothing; `mirl_core.engines.common.stop_strings` then stops by token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs


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
