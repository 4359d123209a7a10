"""The text that each token adds to a text.

A token may end inside a character (byte-level vocabularies): the character belongs to the token that
completes it, so that the texts of all tokens, in order, are the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

CONTEXT = 4
"""Preceding tokens to decode with: some vocabularies spell a word's beginning by the token before it."""
LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the most tokens of a character."""
BROKEN = "\ufffd"
"""What decoders write for bytes that are no character."""


def token_texts(token_ids: Sequence[int], first: int, decode: Decode) -> list[str]:
    """Return the text that each token from `first` on adds."""
    texts: list[str] = []
    read = first
    for end in range(first + 1, len(token_ids) + 1):
        context = token_ids[max(read - CONTEXT, 0) : read]
        text = decode([*context, *token_ids[read:end]])[len(decode(context)) :]
        if text.endswith(BROKEN) and end - read < LONGEST_CHARACTER and end < len(token_ids):
            texts.append("")
        else:
            texts.append(text)
            read = end
    return texts
