"""What is said about scenes: parse undoes write, right means right, and reasoning follows the description."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mirl_core.tasks.worlds import digits
from mirl_core.tasks.worlds import digits_language as language
from mirl_core.tasks.worlds.digits_language import Item, Question, Reading


def _cases(count: int) -> list[tuple[digits.Scene, Question, np.random.Generator]]:
    rng = np.random.default_rng(1)
    return [(s, language.ask(s, rng), rng) for s in digits.scenes("iid", "dev", count)]


def test_parse_undoes_write() -> None:
    for scene, question, rng in _cases(400):
        for seen in (language.see(scene), language.corrupt(language.see(scene), rng)):
            reading = language.select(seen, question, rng)
            assert language.parse_description(language.write_description(reading, rng)) == reading


def test_a_true_description_is_right_and_implies_the_truth() -> None:
    for scene, question, rng in _cases(400):
        truth = language.imply(question, Reading(language.see(scene)))
        reading = language.select(language.see(scene), question, rng)
        assert language.is_right(reading, scene, question)
        assert language.imply(question, reading) == truth


def test_a_description_that_implies_something_else_is_wrong() -> None:
    for scene, question, rng in _cases(400):
        truth = language.imply(question, Reading(language.see(scene)))
        reading = language.select(language.corrupt(language.see(scene), rng), question, rng)
        if language.imply(question, reading) != truth:
            assert not language.is_right(reading, scene, question)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("top left red 3, bottom right blue 7", True),
        ("2 digits: top left red 3, bottom right blue 7", True),
        ("blue 7 bottom right, red 3 top left", True),
        ("3, 7", True),
        ("7; 3", True),
        ("top left: 3; bottom right: 7", True),
        ("3 digits: 3, 7", False),
        ("top left 3", False),
        ("top left 3, bottom right 7, top right 1", False),
        ("top left 3, bottom right 8", False),
        ("top left green 3, bottom right blue 7", False),
        ("top left 3, top left 3", False),
        ("top left red, bottom right blue", False),
        ("3, 7, no red", False),
        ("", False),
        ("a red circle", False),
    ],
)
def test_is_right(text: str, right: bool) -> None:
    scene = digits.Scene("iid", "test", 0, (_thing(0, 0, 3), _thing(3, 2, 7)), 0.1, 0.1, 0)
    question = Question("sum_all", (), "What is the sum of all digits?")
    assert language.is_right(language.parse_description(text), scene, question) is right


def _thing(cell: int, colour: int, digit: int) -> digits.SceneObject:
    return digits.SceneObject(
        cell, digit, colour, 1500, 1500, 0.0, (0, 0, 0, 0), 20.0, (16.0, 16.0), 0.0, 0.0, 1.0
    )


def test_missing_what_is_needed_is_not_right() -> None:
    scene = digits.Scene("iid", "test", 0, (_thing(0, 0, 3), _thing(1, 0, 4), _thing(3, 2, 7)), 0.1, 0.1, 0)
    question = Question("sum_colour", (0,), "Add up the red digits.")
    assert language.is_right(language.parse_description("red 3, red 4"), scene, question)
    assert not language.is_right(language.parse_description("red 3"), scene, question)
    assert not language.is_right(language.parse_description("no red"), scene, question)


@pytest.mark.parametrize(
    ("family", "colours", "text", "thought", "answer"),
    [
        ("sum_all", (), "3, 7, 2", "start 3, 3+7=10, 10+2=12", "12"),
        ("sum_all", (), "top left red 5", "start 5", "5"),
        (
            "sum_colour",
            (0,),
            "top left red 3, top right blue 4, bottom left red 9",
            "red 0+3=3, blue 3, red 3+9=12",
            "12",
        ),
        ("sum_colour", (0,), "no red", "none", "0"),
        (
            "count_colour",
            (2,),
            "top left blue, top right red, bottom left blue",
            "blue 1, red 1, blue 2",
            "2",
        ),
        ("largest", (), "3, 7, 2", "start 3, 7>3 so 7, 2<7", "7"),
        (
            "where_largest",
            (),
            "top left 3, bottom right 7",
            "start 3 top left, 7>3 so 7 bottom right",
            "bottom right",
        ),
        (
            "more",
            (0, 2),
            "top left red, top right blue, bottom left red",
            "red 1-0, blue 1-1, red 2-1, 2>1",
            "yes",
        ),
        ("more", (0, 2), "no red, no blue", "0=0", "no"),
    ],
)
def test_reasoning_follows_the_description(
    family: language.Family, colours: tuple[int, ...], text: str, thought: str, answer: str
) -> None:
    reading = language.parse_description(text)
    assert reading is not None
    question = Question(family, colours, "")
    assert language.reason(question, reading) == (thought, answer)
    assert language.imply(question, reading) == answer


def test_a_slip_changes_one_total_and_the_rest_follows() -> None:
    reading = Reading(tuple(Item(None, None, d) for d in (3, 7, 2)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        thought, answer = language.reason(Question("sum_all", (), ""), reading, rng)
        steps = [s.split("=") for s in thought.split(", ")[1:]]
        wrong = [eval(left) != int(right) for left, right in steps]
        assert sum(wrong) == 1
        assert all(b[0].split("+")[0] == a[1] for a, b in itertools.pairwise(steps))
        assert answer == steps[-1][1]


def test_reasoning_refuses_a_description_that_says_too_little() -> None:
    reading = language.parse_description("top left red, top right blue")
    assert reading is not None
    with pytest.raises(ValueError, match="does not say enough"):
        language.reason(Question("sum_all", (), ""), reading)


def test_questions_reveal_nothing_about_colours() -> None:
    """Two scenes that differ in colours alone get the same question."""
    for scene in digits.scenes("iid", "dev", 100):
        other = digits.Scene(
            scene.kind,
            scene.part,
            scene.index,
            tuple(_thing(t.cell, (t.colour + 1) % 4, t.digit) for t in scene.objects),
            0.1,
            0.1,
            0,
        )
        assert language.ask(scene, np.random.default_rng(5)) == language.ask(other, np.random.default_rng(5))


@pytest.mark.parametrize("family", language.FAMILIES)
def test_every_family_has_questions(family: language.Family) -> None:
    rng = np.random.default_rng(2)
    scene = next(digits.scenes("iid", "dev", 1))
    question = language.ask(scene, rng, family)
    assert question.family == family
    assert "{" not in question.text
