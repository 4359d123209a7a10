"""The tokens of a chain that spell its answer, with the text of each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from mirl_core.algorithm.token_texts import BROKEN, Decode, token_texts
from mirl_core.engines.base import Engine, Sample
from mirl_core.types import Chain, ContentToken


def answer_tokens(chain: Chain, sample: Sample, engine: Engine) -> tuple[ContentToken, ...]:
    """Return every token of `sample` that spells a part of `chain.answer`.

    Args:
        sample: the sample that the chain was read from.

    Returns:
        Empty where the chain has no answer, or its answer is tool calls.
    """
    if chain.calls:
        return ()
    first, last = token_span(sample.token_ids, chain.start, len(chain.answer or ""), engine.decode)
    texts = token_texts(sample.token_ids[:last], first, engine.decode)
    likeliest = sample.likeliest[first:last] or ((),) * (last - first)
    return tuple(
        ContentToken(token, text, logprob, tuple((engine.token_text(item), value) for item, value in ranked))
        for token, text, logprob, ranked in zip(
            sample.token_ids[first:last], texts, sample.logprobs[first:last], likeliest, strict=True
        )
    )


def token_span(token_ids: Sequence[int], start: int, length: int, decode: Decode) -> tuple[int, int]:
    """Return the range (first, end) of tokens that spell `length` characters from character `start` on."""
    if not length:
        return 0, 0

    def characters(count: int) -> int:
        text = decode(token_ids[:count])
        # A broken end is no character yet: it belongs to the token that completes it.
        return len(text.rstrip(BROKEN)) if count < len(token_ids) else len(text)

    counts = range(len(token_ids) + 1)
    first = bisect_left(counts, start, key=characters)
    # The token that crosses the start spells text before the answer, and a part of the answer.
    first -= characters(first) > start
    return first, bisect_left(counts, start + length, key=characters)
