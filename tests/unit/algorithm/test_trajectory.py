"""A trajectory is split into reasoning and content, however it arrives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.algorithm.answers.extraction import locate
from mirl_core.algorithm.trajectory import Split, TrajectorySplitter, split_trajectory
from mirl_core.config import Tags

TAGS = Tags()
OTHER = Tags(description=("Look:", "\n"), reasoning=("[r]", "[/r]"), answer=("[a]", "[/a]"))


def in_pieces(text: str, cuts: list[int], tags: Tags = TAGS) -> Split:
    splitter, edges = (
        TrajectorySplitter(tags),
        sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)}),
    )
    parts = [splitter.feed(text[a:b]) for a, b in pairwise(edges)]
    parts.append(splitter.feed("", final=True))
    return Split("".join(part.reasoning for part in parts), "".join(part.content for part in parts))


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        (
            "<description>two dots</description><think>1 + 1</think><answer>2</answer>",
            "two dots\n\n1 + 1",
            "2",
        ),
        ("\n<think> a\nb </think>\n\n<answer> 2 </answer>\n", "a\nb", "2"),
        ("<think>a</think>\n\nIt is 2.\n", "a", "It is 2.\n"),
        ("<description> </description><think>b</think>c", "b", "c"),
        ("<answer>2</answer>", "", "2"),
        ("<answer>2</answer> or 3", "", "2 or 3"),
        # Text without segments is no trajectory, and is left as it is.
        ('  {"a": "<think>"} ', "", '  {"a": "<think>"} '),
        ("2 < 3 and <answer>x", "", "2 < 3 and <answer>x"),
        (" \n", "", " \n"),
        ("<", "", "<"),
        ("<descr", "", "<descr"),
        # Cut off.
        ("<description>two do", "two do", ""),
        ("<description>two</descri", "two</descri", ""),
        ("<description>two</description>", "two", ""),
        ("<think>a</think><answer>2", "a", "2"),
        ("<think>a</think><ans", "a", "<ans"),
        ("", "", ""),
    ],
)
def test_texts_are_split(text: str, reasoning: str, content: str) -> None:
    assert split_trajectory(text, TAGS) == Split(reasoning, content)


def test_other_tags_are_read() -> None:
    assert split_trajectory("Look: two dots\n[r]1 + 1[/r][a]2[/a]", OTHER) == Split("two dots\n\n1 + 1", "2")


_FRAGMENTS = st.sampled_from(
    [*TAGS.description, *TAGS.reasoning, *TAGS.answer, "<", "</", "think>", " ", "\n", "a", "bc", "é"]
)


@given(st.lists(_FRAGMENTS, max_size=12).map("".join), st.lists(st.integers(0, 200), max_size=12))
def test_the_split_does_not_depend_on_the_pieces(text: str, cuts: list[int]) -> None:
    assert in_pieces(text, cuts) == split_trajectory(text, TAGS)


_WORDS = st.text("ab <\n", min_size=1).map(str.strip).filter(bool)


@given(_WORDS, _WORDS, _WORDS, st.sampled_from([TAGS, Tags(answer=("[a]", "[/a]"))]))
def test_whole_trajectories_are_split_as_the_gate_does(seen: str, why: str, answer: str, tags: Tags) -> None:
    chain = f"{tags.reasoning[0]}{why}{tags.reasoning[1]}{tags.answer[0]}{answer}{tags.answer[1]}"
    extract = locate(chain, tags, finished=True)
    text = f"{tags.description[0]}{seen}{tags.description[1]}{chain}"
    assert split_trajectory(text, tags) == Split(f"{seen}\n\n{extract.reasoning}", extract.answer or "")


@given(_WORDS)
def test_nothing_is_held_back_longer_than_needed(text: str) -> None:
    """What can be no part of a tag and no white space at an edge is emitted at once."""
    splitter = TrajectorySplitter(TAGS)
    splitter.feed("<think>")
    for character in text:
        splitter.feed(character)
    assert splitter.feed("x").reasoning.endswith("x")
