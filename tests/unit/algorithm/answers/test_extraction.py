"""The exact reasoning, answer and position of a chain's answer, finished and cut off."""

from __future__ import annotations

import pytest

from mirl_core.algorithm.answers import Extract, extract, locate
from mirl_core.config import Tags

TAGS = Tags()

# A chain that ended by itself → reasoning, answer and the answer's index.
FINISHED = {
    # Tags.
    "<think>a</think>7 and <answer>7</answer>": ("a\n7 and", "7", 30),
    "a</think>b</think><answer>4</answer>": ("a\nb", "4", 26),
    "<answer>3</answer> no, <answer>4</answer>": ("3 no,", "4", 31),
    "<answer>4</answer>": ("", "4", 8),
    "<think>so <answer>4": ("so", "4", 18),
    "<answer>3 <answer>4": ("3", "4", 18),
    "</answer><answer>4": ("", "4", 17),
    "so</answer> 4": ("", "so 4", 0),
    # A tag inside the answer is no part of it; the position is where the answer's text begins.
    "<answer>a<think>b</answer>": ("", "ab", 8),
    "<answer> <description>A dog.</description> Two.</answer>": ("", "A dog. Two.", 8),
    "<description>A dog.</description><think>a</think>4": ("A dog.a", "4", 49),
    # A closing tag that was begun ends the answer, any other text belongs to it.
    "<answer>4</": ("", "4", 8),
    "<answer>4</answer": ("", "4", 8),
    "<answer>4<": ("", "4<", 8),
    "<answer>a</b></ans": ("", "a</b>", 8),
    "<answer>a</b> c": ("", "a</b> c", 8),
    "<answer>a</answers": ("", "a</answers", 8),
    "so </ans": ("", "so </ans", 0),
    # Nothing but reasoning.
    "  <think>I wonder": ("I wonder", None, 0),
    "<think>I wonder</think> <answer></answer>": ("I wonder", None, 0),
    "": ("", None, 0),
    # \boxed.
    r"\boxed{4}": ("", "4", 7),
    r"\boxed{3} no, \boxed{4}": (r"\boxed{3} no,", "4", 21),
    r"It is \boxed{{a}{b}} here.": ("It is", "{a}{b}", 13),
    r"\boxed{}": ("", r"\boxed{}", 0),
    r"\boxed{a}} or {b": ("", "a", 7),
    r"I say \boxed{ }, final answer: 4": (r"I say \boxed{ },", "4", 31),
    r"<think>a \boxed{4}</think>": ("a", "4", 16),
    r"Final answer: 5. \boxed{4}": ("Final answer: 5.", "4", 24),
    # Markers.
    "The final answer is 3.\nFinal answer: 4\nThat is all.": ("The final answer is 3.", "4", 37),
    "FINAL ANSWER IS: **4**": ("", "4", 19),
    "so final answer = 4 cm": ("so", "4 cm", 18),
    "**Final answer: 4**\nBye.": ("**", "4", 16),
    "I count.\nAnswer: 4\n\n": ("I count.", "4", 17),
    "I see.\nI count.\nAnswer: 4": ("I see.\nI count.", "4", 24),
    "Answer: 4": ("", "4", 8),
    "answer: a\nAnswer: b": ("answer: a", "b", 18),
    "Answer: **a** or **b**": ("", "a or b", 8),
    "4 is my answer: yes": ("", "4 is my answer: yes", 0),
    # The whole text, with and without white space.
    "\n A dog sleeps. ": ("", "A dog sleeps.", 2),
    "<think>a</think> A dog sleeps.\n": ("a", "A dog sleeps.", 17),
    "</think>A dog.": ("", "A dog.", 8),
}  # fmt: skip

# A chain that was cut off.
CUT_OFF = {
    "<think>a</think><answer>4</answer>": ("a", "4", 24),
    "<answer>3</answer> and <answer>4": ("", "3", 8),
    "<think>so <answer>4": ("so 4", None, 0),
    "<think>so <answer>4</answer>": ("so", "4", 18),
    "A dog sleeps.": ("A dog sleeps.", None, 0),
    "<think>a</think>A dog sleeps.": ("a", None, 0),
    "</think> A dog.": ("A dog.", None, 0),
    r"<think>a \boxed{4}</think>": (r"a \boxed{4}", None, 0),
    "so <answer>final answer: 4": ("so final answer: 4", None, 0),
    "  <think>I wonder": ("I wonder", None, 0),
    "<description>A dog.</description> Two": ("A dog. Two", None, 0),
}


@pytest.mark.parametrize("text", FINISHED)
def test_a_chain_that_ended_by_itself(text: str) -> None:
    reasoning, answer, start = FINISHED[text]
    assert locate(text, TAGS, finished=True) == Extract(reasoning, answer, start)
    assert extract(text, TAGS, finished=True) == (reasoning, answer)


@pytest.mark.parametrize("text", CUT_OFF)
def test_a_chain_that_was_cut_off(text: str) -> None:
    reasoning, answer, start = CUT_OFF[text]
    assert locate(text, TAGS, finished=False) == Extract(reasoning, answer, start)
    assert extract(text, TAGS, finished=False) == (reasoning, answer)


def test_an_opening_tag_is_no_begun_closing_tag() -> None:
    tags = Tags(answer=("<<", "<<end"))
    assert locate("so <<e", tags, finished=True) == Extract("so", "e", 5)
