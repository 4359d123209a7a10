"""Tokens of a text as texts, from the strings that vLLM's `/tokenize` returns."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import cache

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_texts(strings: Sequence[str], text: str) -> list[str] | None:
    """Return the piece of a text that each of its tokens spells; None where the strings don't spell it.

    A character that several tokens spell belongs to the last of them.

    Args:
        strings: the vocabulary's entries: of a byte-level one, or of SentencePiece.
        text: the text that they spell.
    """
    for read in (_byte_level, _sentencepiece):
        pieces = [read(string) for string in strings]
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        texts = [decoder.decode(piece) for piece in pieces]
        joined = "".join(texts)
        if joined == text:
            return texts
        # SentencePiece puts a space before a text.
        if joined == f" {text}":
            return [texts[0][1:], *texts[1:]]
    return None


def _byte_level(string: str) -> bytes:
    table = _byte_table()
    if all(character in table for character in string):
        return bytes(table[character] for character in string)
    return string.encode()


def _sentencepiece(string: str) -> bytes:
    if match := _BYTE.fullmatch(string):
        return bytes([int(match[1], 16)])
    return string.replace("▁", " ").encode()


@cache
def _byte_table() -> dict[str, int]:
    """Return the byte of each character of a byte-level vocabulary, as GPT-2 defined them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(rest)}
