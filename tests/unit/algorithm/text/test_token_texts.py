"""Each token has the text that it adds, whatever the vocabulary cuts in two."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mirl_core.algorithm.token_texts import token_texts
from tests.unit.algorithm.text.vocabularies import by_byte


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    ids = list("a\u20acb".encode())
    assert token_texts(ids, 0, by_byte) == ["a", "", "", "\u20ac", "b"]
    # A byte that is really broken is returned as it reads.
    assert "".join(token_texts([0xFF, 0x61], 0, by_byte)) == "\ufffda"


def test_tokens_are_decoded_behind_the_four_before_them() -> None:
    seen: list[tuple[int, ...]] = []

    def decode(ids: Sequence[int]) -> str:
        # A vocabulary that leaves out the space before the first word.
        seen.append(tuple(ids))
        return "".join(f" {token}" for token in ids).removeprefix(" ")

    assert token_texts(range(8), 6, decode) == [" 6", " 7"]
    assert set(seen) == {(2, 3, 4, 5), (2, 3, 4, 5, 6), (3, 4, 5, 6), (3, 4, 5, 6, 7)}
    assert token_texts(range(2), 0, decode) == ["0", " 1"]


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        # A character of four bytes, the longest that there is.
        ([0x61, *"\U0001f600".encode(), 0x62], ["a", "", "", "", "\U0001f600", "b"]),
        # Broken at the end of the text, or for longer than a character can be.
        ([0x61, 0xF0, 0x9F], ["a", "", "\ufffd"]),
        ([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x61], ["", "", "", "\ufffd" * 4, "", "\ufffda"]),
    ],
)
def test_how_long_a_broken_end_is_waited_for(ids: list[int], texts: list[str]) -> None:
    assert token_texts(ids, 0, by_byte) == texts
