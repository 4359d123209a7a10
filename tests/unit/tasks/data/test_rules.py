"""Options in a text, and data sets' own rules of rightness."""

from __future__ import annotations

import pytest

from mirl_core.tasks.data.rules import parse_choices, rounds_to, within


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Which?\nChoices:\nA:40°\nB:60°", ("40°", "60°")),
        ("Which?\nOptions: A: on a book., B: in C: drive, C: off", ("on a book.", "in C: drive", "off")),
        ("Which?\n(A) one (B) two", ("one", "two")),
        ("A. one\nB. two\nC. three", ("one", "two", "three")),
        ("['a', \"b's\"]", ("a", "b's")),
        ('["a", 2]', ("a", "2")),
        ("[broken", ()),
        ("Find L.", ()),
        ("Choices:\nA: alone", ()),
    ],
)
def test_choices_are_parsed(text: str, choices: tuple[str, ...]) -> None:
    assert parse_choices(text) == choices


@pytest.mark.parametrize(
    ("answer", "truth", "near"),
    [
        ("105", "100", True), ("94.9", "100", False), ("1,050", "1000", True), ("$1,050.", "1,000", True),
        ("-95", "-100", True), ("95", "-100", False), ("14%", "0.14", True), ("14%", "14", False),
        ("0", "0", False), ("about 100", "100", False), ("red", "100", False),
        ("–95", "-100", True), ("１０５", "100", True), ("105 or 106", "100", False),
    ],
)  # fmt: skip
def test_relaxed_accuracy(answer: str, truth: str, near: bool) -> None:
    assert within(answer, truth, 0.05) is near


@pytest.mark.parametrize(
    ("answer", "truth", "decimals", "right"),
    [
        ("1.24", "1.2", 1, True), ("1.26", "1.2", 1, False), ("1.2 km", "1.2", 1, True),
        ("1/3", "0.33", 2, True), ("-1.2", "1.2", 1, False), ("3.4", "3", 0, True), ("far", "3", 0, False),
        ("1.2 km", "1.2 kg", 1, False), ("1.2", "1.2 km", 1, False), ("1.24 km", "1.2 kilometers", 1, True),
        ("3 or 4", "3", 0, False), ("3 of 4", "3", 0, False), ("3-4", "3", 0, False), ("½", "0.5", 1, True),
    ],
)  # fmt: skip
def test_rounding(answer: str, truth: str, decimals: int, right: bool) -> None:
    assert rounds_to(answer, truth, decimals) is right
