"""The tokens of a chain that spell its answer, with the text of each.

A token may end inside a character (byte-level vocabularies): the character belongs to the token that
completes it, so that the texts of all tokens, in order, are the chain's text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from mirl_core.engines.base import Engine, Sample
from mirl_core.types import Chain, ContentToken

Decode = Callable[[Sequence[int]], str]

CONTEXT = 4
"""Preceding tokens to decode with: some vocabularies spell a word's beginning by the token before it."""
LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the most tokens of a character."""
_BROKEN = "\ufffd"


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
        return len(text.rstrip(_BROKEN)) if count < len(token_ids) else len(text)

    counts = range(len(token_ids) + 1)
    first = bisect_left(counts, start, key=characters)
    # The token that crosses the start spells text before the answer, and a part of the answer.
    first -= characters(first) > start
    return first, bisect_left(counts, start + length, key=characters)


def token_texts(token_ids: Sequence[int], first: int, decode: Decode) -> list[str]:
    """Return the text that each token from `first` on adds."""
    texts: list[str] = []
    read = first
    for end in range(first + 1, len(token_ids) + 1):
        context = token_ids[max(read - CONTEXT, 0) : read]
        text = decode([*context, *token_ids[read:end]])[len(decode(context)) :]
        if text.endswith(_BROKEN) and end - read < LONGEST_CHARACTER and end < len(token_ids):
            texts.append("")
        else:
            texts.append(text)
            read = end
    return texts
