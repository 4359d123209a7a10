"""The published rules of sameness, on examples from their sources, and the counts of the table."""

from __future__ import annotations

import pytest

from tests.benchmarks.answer_rules import (
    Agreement,
    Pair,
    chartqa,
    compare,
    mathvista,
    pope,
    read_pairs,
    report,
)


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        ("100", "105", True), ("100", "94.9", False), ("0.14", "14%", True), ("14", "14%", False),
        ("red", "RED", True), ("0", "0", True), ("0", "0.0", False), ("1000", "1,000", False),
    ],
)  # fmt: skip
def test_chartqa(truth: str, answer: str, same: bool) -> None:
    assert chartqa(truth, answer) is same


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        ("3", "3.7", True), ("3", "4", False), ("3", "3 dogs", False), ("1.2", "1.24", True),
        ("1.2", "1.26", False), ("B", "(B) 8/11", True), ("B", "B", True), ("B", "(C)", False),
        ("[1, 2]", "[1, 2]", True), ("red", "Red", False), ("3", "inf", False),
    ],
)  # fmt: skip
def test_mathvista(truth: str, answer: str, same: bool) -> None:
    assert mathvista(truth, answer) is same


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        ("yes", "Yes, there is", True), ("no", "No, there isn't", True), ("no", "There is not a dog.", True),
        ("yes", "There is. No doubt.", True), ("yes", "no", False), ("no", "NO", False), ("5", "5", None),
    ],
)  # fmt: skip
def test_pope(truth: str, answer: str, same: bool | None) -> None:
    assert pope(truth, answer) is same


PAIRS = [
    Pair("5", "five", "words", same=True), Pair("5%", "5 pct", "words", same=True),
    Pair("yes", "Yes.", "yes", same=True), Pair("5", "6", "numbers", same=False),
    Pair("100", "103", "numbers", same=False),
]  # fmt: skip


def test_counts() -> None:
    agreement = compare("ChartQA", chartqa, PAIRS)
    assert agreement == Agreement("ChartQA", 5, 3, 0, 1, 1, (("numbers", 1),), (("words", 2), ("yes", 1)))
    assert compare("POPE", pope, PAIRS) == Agreement("POPE", 1, 1, 1, 0, 1, (), ())
    assert report([agreement]).split("\n")[2] == (
        "| ChartQA | 5 | 0 of 3 | 1 of 2 | 20% | numbers (1) | words (2), yes (1) |"
    )


def test_either_answer_of_a_pair_may_be_the_truth() -> None:
    turned = [Pair("3.7", "3", "numbers", same=True), Pair("3", "3.7", "numbers", same=True)]
    assert [mathvista(pair.a, pair.b) for pair in turned] == [False, True]
    assert compare("MathVista", mathvista, turned).merged == 2


def test_all_pairs_are_read() -> None:
    pairs = read_pairs()
    assert sum(pair.same for pair in pairs) >= 200 <= sum(not pair.same for pair in pairs)
