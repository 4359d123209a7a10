"""Descriptions of models that were never trained on the tags: scripted answers in their shapes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.algorithm.answers import locate
from mirl_core.algorithm.segments import description_stops, read_description
from mirl_core.config import Tags
from mirl_core.engines.base import Sample
from mirl_core.families import shipped
from mirl_core.types import Description, FinishReason

TAGS = Tags()
WORDS = shipped("words").tags
END = 3
"""The end of a turn, which decodes to nothing."""


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(token) for token in ids if token != END)


def read(
    text: str, reason: FinishReason = "stop", *, tags: Tags = TAGS, lenient: bool = True, end: bool = False
) -> Description:
    """Return the description that a model's text is read as; a token is a character.

    Args:
        end: the turn ended, with a token of its own.
    """
    ids = encode(text) + ((END,) if end else ())
    sample = Sample(0, ids, (-1.0,) * len(ids), text, reason)
    return read_description(sample, tags, decode, encode if lenient else None)


SHAPES = {
    "as asked": "A red 7 on white.</description>",
    "tag echoed": "<description>\nA red 7 on white.\n</description>",
    "capitals": "A red 7 on white.</Description>\n<think>",
    "blanks in the tag": "A red 7 on white.< / description >",
    "backslash": "A red 7 on white.<\\description>",
    "square brackets": "A red 7 on white.[/description]",
    "bold tag": "A red 7 on white.</description>**",
    "closing tag missing, thinking": "A red 7 on white.\n\n<think>",
    "closing tag missing, answer": "A red 7 on white.\n<answer>",
    "thinking closed instead": "A red 7 on white.\n</think>",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_the_usual_shapes_are_read(text: str) -> None:
    description = read(text)
    assert (description.text, description.reason) == ("A red 7 on white.", None)
    # What a fork continues is the sampled text up to the end of the content, with the tag behind it.
    onward = decode(description.token_ids)
    assert TAGS.description[1] in onward
    assert decode(description.token_ids[: description.content_tokens]).endswith("A red 7 on white.") or (
        text == SHAPES["tag echoed"]
    )
    assert description.logprob == -description.content_tokens


def test_a_turn_that_ends_without_the_tag_goes_on_without_the_turns_end() -> None:
    description = read("A red 7 on white.\n", end=True)
    assert (description.text, description.reason) == ("A red 7 on white.", None)
    assert END not in description.token_ids
    assert decode(description.token_ids) == "A red 7 on white.</description>"


@pytest.mark.parametrize("text", [*list(SHAPES.values())[2:], "A red 7 on white."])
def test_a_trained_model_is_read_strictly(text: str) -> None:
    strict = read(text, lenient=False)
    if "</description>" in text:
        assert strict.reason is None
    else:
        assert strict.reason == "unparsable"
        assert strict.token_ids == encode(text)


MARKDOWN = [
    "**What I see:**\n\n- a red `7`\n- a white background\n</description>",
    "```\nA red 7.\n```\n</description>",
    "Sure! Here is the description you asked for: a red 7.</description>",
    "I'm sorry, but I can't see the image.</description>",
]


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_preambles_and_refusals_are_content_that_the_gate_judges(text: str) -> None:
    description = read(text)
    assert description.reason is None
    assert description.text == text.removesuffix("</description>").strip()


@pytest.mark.parametrize(
    ("text", "reason", "finished"),
    [
        ("", "empty", "stop"),
        (" \n", "empty", "stop"),
        ("<description></description>", "empty", "stop"),
        ("</description>", "empty", "stop"),
        ("<think>", "empty", "stop"),
        ("A red 7 on", "truncated", "length"),
        ("A red <description> 7</description>", "unparsable", "stop"),
    ],
)
def test_what_stays_unusable(text: str, reason: str, finished: FinishReason) -> None:
    description = read(text, finished)
    assert description.reason == reason


def test_a_token_that_holds_content_and_tag_has_no_exact_end() -> None:
    texts = ("A red 7", ".\n<think", ">", "</description>")
    sample = Sample(0, (0, 1, 2), (-1.0,) * 3, "".join(texts[:3]), "stop")

    def spell(ids: Sequence[int]) -> str:
        return "".join(texts[token] for token in ids)

    description = read_description(sample, TAGS, spell, lambda _: (3,))
    assert (description.reason, description.token_ids) == ("unparsable", (0, 1, 2))


def test_words_as_tags() -> None:
    assert description_stops(WORDS, lenient=True) == ("Reasoning:", "Answer:", "###")
    description = read(" A red 7 on white.\nReasoning:", tags=WORDS)
    assert (description.text, description.reason) == ("A red 7 on white.", None)
    assert decode(description.token_ids) == " A red 7 on white.\nReasoning:"
    ended = read(" A red 7 on white.", tags=WORDS, end=True)
    assert decode(ended.token_ids) == " A red 7 on white.Reasoning:"


CHAINS = {
    " the digit is red, so it counts.\nAnswer: 7": "7",
    " line one.\n\nLine two.\n\nAnswer: 7\n": "7",
    " it counts. Answer: 7 ###": "7",
    " The red digit is 7.": "The red digit is 7.",
}


@pytest.mark.parametrize(("text", "answer"), CHAINS.items())
def test_chains_behind_words_have_their_answer(text: str, answer: str) -> None:
    located = locate(text, WORDS, finished=True)
    assert located.answer == answer
    if answer == "7":
        assert located.reasoning.startswith(text.split("Answer:")[0].strip().split(".")[0])


THINKING = {
    "\nThe red digit is 7.\n</think>\n\n<answer>7</answer>": "7",
    "\nThe red digit is 7.\n</think>\n\nThe answer is 7.": "7",
    "\nFirst <answer>3</answer>? No.\n</think>\n\n<answer>7</answer>": "7",
    "\nThe red digit is 7.\n</think>\n\n7": "7",
}


@pytest.mark.parametrize(("text", "answer"), THINKING.items())
def test_a_description_inside_the_thinking_is_followed_by_its_rest(text: str, answer: str) -> None:
    """The template has opened the thinking: the chain closes it without having opened it."""
    located = locate(text, TAGS, finished=True)
    assert (located.answer or "").rstrip(".") == answer
    assert "think>" not in located.reasoning
    assert located.reasoning


@given(
    st.text(alphabet="ab .\n", max_size=20),
    st.sampled_from([*SHAPES.values(), *MARKDOWN, "<answer>", "</think>", ""]),
    st.sampled_from(["stop", "length"]),
)
def test_what_goes_on_is_sampled_but_for_the_closing_tag(
    before: str, shape: str, reason: FinishReason
) -> None:
    text = before + shape
    description = read(text, reason)
    onward = decode(description.token_ids)
    if description.reason is None:
        kept, tag, rest = onward.partition(TAGS.description[1])
        assert tag
        assert text.startswith(kept)
        assert description.content_tokens <= len(kept)
        assert not rest or text.startswith(onward)
    else:
        assert TAGS.description[1] in onward or onward == text
