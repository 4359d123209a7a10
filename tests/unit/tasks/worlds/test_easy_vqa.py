"""The easy-VQA world: its own split, truths that explain every published answer, descriptions that parse."""

from __future__ import annotations

import numpy as np
import pytest

from mirl_core.tasks.worlds import easy_vqa
from mirl_core.tasks.worlds.digits import PARTS, Part
from mirl_core.tasks.worlds.easy_vqa import Appearance


@pytest.mark.parametrize(
    ("part", "pictures", "questions"), [("train", 3800, 36663), ("dev", 200, 1912), ("test", 1000, 9673)]
)
def test_the_published_split(part: Part, pictures: int, questions: int) -> None:
    loaded = easy_vqa.pictures(part)
    assert len(loaded) == pictures
    assert sum(len(p.questions) for p in loaded) == questions


def test_dev_is_held_out_of_train() -> None:
    numbers = [{p.number for p in easy_vqa.pictures(part)} for part in ("train", "dev")]
    assert not numbers[0] & numbers[1]


@pytest.mark.parametrize("part", PARTS)
def test_the_truth_explains_every_published_answer(part: Part) -> None:
    for picture in easy_vqa.pictures(part):
        for question, answer in picture.questions:
            assert easy_vqa.imply(question, picture.appearance) == answer


def test_parse_undoes_write_and_true_descriptions_are_right() -> None:
    rng = np.random.default_rng(0)
    for picture in easy_vqa.pictures("dev"):
        for question, answer in picture.questions:
            said = easy_vqa.parse_description(easy_vqa.write_description(picture.appearance, question, rng))
            assert said is not None
            assert easy_vqa.is_right(said, picture.appearance, question)
            assert easy_vqa.reason(question, said)[1] == answer


@pytest.mark.parametrize(
    ("question", "appearance", "thought", "answer"),
    [
        ("what color is the shape?", Appearance(None, "red"), "it is red", "red"),
        ("is there a blue shape?", Appearance("circle", "red"), "it is red, not blue", "no"),
        ("is there not a circle?", Appearance("circle", None), "it is circle; asked if not", "no"),
        (
            "is no triangle present?",
            Appearance("circle", "red"),
            "it is circle, not triangle; asked if not",
            "yes",
        ),
    ],
)
def test_reasoning(question: str, appearance: Appearance, thought: str, answer: str) -> None:
    assert easy_vqa.reason(question, appearance) == (thought, answer)


@pytest.mark.parametrize("text", ["", "a shape", "red circle", "a purple circle", "a red", "top left red 3"])
def test_text_outside_the_language_has_no_reading(text: str) -> None:
    assert easy_vqa.parse_description(text) is None


def test_a_corrupted_view_differs() -> None:
    rng = np.random.default_rng(0)
    assert all(
        easy_vqa.corrupt(Appearance("circle", "red"), rng) != Appearance("circle", "red") for _ in range(100)
    )
