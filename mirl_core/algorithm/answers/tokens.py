"""Which of a chain's tokens spell its answer, and how each is written.

A token may end inside a character (byte-level vocabularies): the text goes to the token that completes it, so
that the texts of all tokens, one after the other, are the chain's text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from mirl_core.engines.base import Engine, Sample
from mirl_core.types import Chain, ContentToken

Decode = Callable[[Sequence[int]], str]

CONTEXT = 4
"""Tokens to decode with, because some vocabularies write a word's beginning by what stands before it."""
LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the most tokens that one character takes."""
_BROKEN = "\ufffd"


def answer_tokens(chain: Chain, sample: Sample, engine: Engine) -> tuple[ContentToken, ...]:
    """Every token of `sample` that spells a part of `chain.answer`; none where there is none, or it is calls.

    Args:
        sample: what the chain was read from.
    """
    if chain.calls:
        return ()
    first, last = token_span(sample.token_ids, chain.start, len(chain.answer or ""), engine.decode)
    texts = token_texts(sample.token_ids[:last], first, engine.decode)
    likeliest = sample.likeliest[first:last] or ((),) * (last - first)
    return tuple(
        ContentToken(token, text, logprob, tuple((engine.token_text(one), value) for one, value in ranked))
        for token, text, logprob, ranked in zip(
            sample.token_ids[first:last], texts, sample.logprobs[first:last], likeliest, strict=True
        )
    )


def token_span(token_ids: Sequence[int], start: int, length: int, decode: Decode) -> tuple[int, int]:
    """The range of tokens that spell `length` characters from character `start` on."""
    if not length:
        return 0, 0

    def written(count: int) -> int:
        text = decode(token_ids[:count])
        # A broken end is no character yet: the token that completes it writes it.
        return len(text.rstrip(_BROKEN)) if count < len(token_ids) else len(text)

    counts = range(len(token_ids) + 1)
    first = bisect_left(counts, start, key=written)
    # The token that crosses the start spells what stands before it, and a part of the answer.
    first -= written(first) > start
    return first, bisect_left(counts, start + length, key=written)


def token_texts(token_ids: Sequence[int], first: int, decode: Decode) -> list[str]:
    """What each token from `first` on adds to the text."""
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
