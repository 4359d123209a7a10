"""An answer's tokens spell the answer, whatever the vocabulary cuts in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.algorithm.answers.tokens import answer_tokens, token_span
from mirl_core.algorithm.token_texts import token_texts
from mirl_core.engines.base import Sample
from mirl_core.engines.fake import FakeEngine
from mirl_core.types import Chain
from tests.unit.algorithm.text.vocabularies import by_byte


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_tokens_of_bytes_spell_exactly_the_answer(before: str, answer: str, after: str) -> None:
    ids = list((before + answer + after).encode())
    first, last = token_span(ids, len(before), len(answer), by_byte)
    assert bytes(ids[first:last]).decode() == answer
    assert "".join(token_texts(ids[:last], first, by_byte)) == answer


@given(st.lists(st.sampled_from(["a", "bc", " d", "\u00e9", "<", "x>7"]), max_size=12), st.data())
def test_tokens_of_words_cover_the_answer_and_no_more(words: list[str], data: st.DataObject) -> None:
    def decode(ids: Sequence[int]) -> str:
        return "".join(words[place] for place in ids)

    ids, text = list(range(len(words))), "".join(words)
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, len(text) - start))
    first, last = token_span(ids, start, length, decode)
    spelled, offset = decode(ids[first:last]), len(decode(ids[:first]))
    assert spelled[start - offset :].startswith(text[start : start + length])
    if length:
        assert offset <= start < offset + len(words[first])
        assert offset + len(spelled) - len(words[last - 1]) < start + length
    else:
        assert first == last


@pytest.mark.parametrize(("answer", "expected"), [("7", ["7"]), ("red one", ["red", " one"]), (None, [])])
def test_tokens_carry_their_logprobs_and_rivals(answer: str | None, expected: list[str]) -> None:
    engine = FakeEngine()
    text = f"<think>so</think><answer>{answer or ''}"
    ids = engine.encode(text)
    rivals = tuple(((token, -0.5), (ids[0], -1.5)) for token in ids)
    sample = Sample(0, ids, tuple(-float(place) for place in range(len(ids))), text, "stop", likeliest=rivals)
    start = text.index("<answer>") + len("<answer>")
    tokens = answer_tokens(Chain(0, 0, text, "so", answer, len(ids), "stop", start=start), sample, engine)
    assert [token.text for token in tokens] == expected
    assert [token.logprob for token in tokens] == [-float(ids.index(token.token_id)) for token in tokens]
    assert all(token.likeliest == ((token.text, -0.5), ("<think>", -1.5)) for token in tokens)


@pytest.mark.parametrize(
    ("start", "length", "span"),
    [
        (0, 0, (0, 0)), (3, 0, (0, 0)), (0, 1, (0, 1)), (1, 1, (1, 3)), (1, 2, (1, 4)), (2, 1, (3, 4)),
        (0, 3, (0, 4)), (3, 2, (4, 5)), (4, 1, (4, 5)), (4, 2, (4, 6)), (5, 1, (5, 6)),
    ],
)  # fmt: skip
def test_the_tokens_of_some_characters(start: int, length: int, span: tuple[int, int]) -> None:
    # a, é in two halves, b, "cd" in one token, and a broken byte at the very end.
    words = [b"a", b"\xc3", b"\xa9", b"b", b"cd", b"\xff"]

    def decode(ids: Sequence[int]) -> str:
        return b"".join(words[place] for place in ids).decode(errors="replace")

    assert token_span(range(len(words)), start, length, decode) == span


def test_calls_spell_no_part_of_the_text_and_rivals_may_be_missing() -> None:
    engine = FakeEngine()
    ids = engine.encode("x y z")
    sample = Sample(0, ids, (-1.0, -2.0, -3.0), "x y z", "stop")
    chain = Chain(0, 0, "x y z", "", "y", 3, "stop", start=2)
    (token,) = answer_tokens(chain, sample, engine)
    assert (token.token_id, token.text, token.logprob, token.likeliest) == (ids[1], " y", -2.0, ())
    assert answer_tokens(replace(chain, calls=True), sample, engine) == ()
