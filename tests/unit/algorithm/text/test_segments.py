"""Where a description ends in tokens, whatever the tokenizer does at the tag."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.algorithm.segments import content_length, cut_at_stop, read_description
from mirl_core.config import Tags
from mirl_core.engines.base import Sample
from mirl_core.types import FinishReason

TAGS = Tags()


def pieces(*texts: str):
    """A tokenizer whose token i is `texts[i]`."""

    def decode(ids: Sequence[int]) -> str:
        return "".join(texts[i] for i in ids)

    return tuple(range(len(texts))), decode


@pytest.mark.parametrize(
    ("tokens", "length"),
    [
        (("a", " cat", "</description>"), 2),
        (("a", " cat", "</", "description", ">"), 2),
        (("a", " cat", ".</", "description", ">\n"), 3),
        (("a", " cat", "\n", "</description>"), 3),
        (("</description>",), 0),
    ],
)
def test_content_is_measured_in_tokens(tokens: tuple[str, ...], length: int) -> None:
    ids, decode = pieces(*tokens)
    content = decode(ids).partition("</description>")[0]
    assert content_length(ids, content, decode) == length


@given(st.text(alphabet="ab <>/é", max_size=12), st.lists(st.integers(1, 3), min_size=1, max_size=30))
def test_content_length_is_the_shortest_prefix_that_spells_the_content(text: str, cuts: list[int]) -> None:
    whole = text + "</description>"
    texts, at = [], 0
    for cut in cuts:
        texts.append(whole[at : at + cut])
        at += cut
    texts.append(whole[at:])
    ids, decode = pieces(*texts)
    content = whole.partition("</description>")[0]
    length = content_length(ids, content, decode)
    assert decode(ids[:length]).startswith(content)
    if length:
        assert not decode(ids[: length - 1]).startswith(content)


def test_only_content_tokens_count_towards_the_logprob() -> None:
    ids, decode = pieces("a", " cat", "</description>")
    sample = Sample(3, ids, (-1.0, -2.0, -4.0), "a cat</description>", "stop")
    description = read_description(sample, TAGS, decode)
    assert (description.index, description.text, description.reason) == (3, "a cat", None)
    assert description.logprob == -3.0
    assert description.token_ids == ids


def test_the_first_stop_string_cuts_the_answer() -> None:
    assert cut_at_stop("7 apples, or 8", (" or", ",")) == "7 apples"
    assert cut_at_stop("7", (" or", "")) == "7"


@pytest.mark.parametrize(
    ("tokens", "finish", "reason", "length", "text"),
    [
        (("a", " cat", "</description>"), "stop", None, 2, "a cat"),
        (("a", " cat", "</description>", " x"), "length", None, 2, "a cat"),
        (("a", " cat"), "stop", "unparsable", 2, "a cat"),
        (("a", " cat", ""), "stop", "unparsable", 3, "a cat"),
        (("a", " cat"), "length", "truncated", 2, "a cat"),
        (("a", " cat"), "abort", "truncated", 2, "a cat"),
        ((" ", "\n", "</description>"), "stop", "empty", 2, ""),
        (("</description>", "a"), "stop", "empty", 0, ""),
        ((" a", "<description>", "b ", "</description>"), "stop", "unparsable", 3, "a<description>b"),
        (("a", "<think>", "</description>"), "stop", "unparsable", 2, "a<think>"),
        (("a", "</think>", "</description>"), "stop", "unparsable", 2, "a</think>"),
        (("a", "<answer>", "</description>"), "stop", "unparsable", 2, "a<answer>"),
        (("a", "</answer>", "</description>"), "stop", "unparsable", 2, "a</answer>"),
        (("a", "</description>", "<think>", "</description>"), "stop", None, 1, "a"),
        ((), "stop", "unparsable", 0, ""),
    ],
)
def test_every_fate_of_a_sample(
    tokens: tuple[str, ...], finish: FinishReason, reason: str | None, length: int, text: str
) -> None:
    ids, decode = pieces(*tokens)
    sample = Sample(3, ids, tuple(-(2.0**place) for place in range(len(ids))), "".join(tokens), finish)
    description = read_description(sample, TAGS, decode)
    assert (description.reason, description.content_tokens, description.text) == (reason, length, text)
    assert description.logprob == 1 - 2.0**length
    assert (description.index, description.token_ids) == (3, ids)
    assert (description.kept, description.mi, description.score) == (False, None, None)


@pytest.mark.parametrize(
    ("answer", "stop", "cut"),
    [
        ("7 apples, or 8", (",", " or"), "7 apples"),
        ("7 apples, or 8", (" or", " a"), "7"),
        ("7 or 8 or 9", (" or",), "7"),
        ("or 8", ("or",), ""),
        ("7 apples", ("pears",), "7 apples"),
        ("7 apples", (), "7 apples"),
        ("7 apples", ("", "s"), "7 apple"),
    ],
)
def test_where_an_answer_is_cut(answer: str, stop: tuple[str, ...], cut: str) -> None:
    assert cut_at_stop(answer, stop) == cut
