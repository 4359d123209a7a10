"""Questions, descriptions and wrong descriptions of the charts world."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mirl_core.tasks.worlds.charts import language
from mirl_core.tasks.worlds.charts.language import FAMILIES, Family, Question, Reading
from mirl_core.tasks.worlds.charts.scenes import LARGEST, draw_scene

APPLES, ORANGES, LEMONS, LIMES, BERRIES, GRAPES = range(6)
READING = Reading(((APPLES, 14), (LIMES, 6), (GRAPES, 11), (LEMONS, 3)))


@pytest.mark.parametrize(
    ("family", "groups", "bound", "answer"),
    [
        ("total", ((APPLES, LIMES, GRAPES),), None, "31"),
        ("difference", ((APPLES, LIMES), (GRAPES,)), None, "9"),
        ("difference", ((GRAPES,), (APPLES, LIMES)), None, "9"),
        ("excess", ((APPLES, LIMES, GRAPES),), 6, "13"),
        ("gap", ((APPLES, LIMES, LEMONS),), None, "11"),
        ("reach", ((APPLES, LIMES, GRAPES),), 60, "29"),
        ("total", ((APPLES, BERRIES),), None, None),
    ],
)
def test_a_reading_implies_the_answer(
    family: Family, groups: tuple[tuple[int, ...], ...], bound: int | None, answer: str | None
) -> None:
    assert language.imply(Question(family, 0, groups, bound, ""), READING) == answer


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_reveal_nothing_about_values(family: Family) -> None:
    for index in range(40):
        scene = draw_scene("iid", "train", index)
        other = dataclasses.replace(
            scene, columns=tuple(dataclasses.replace(c, value=LARGEST + 1 - c.value) for c in scene.columns)
        )
        first = language.ask(scene, np.random.default_rng(index), family)
        assert first == language.ask(other, np.random.default_rng(index), family)
        assert 3 <= len(set(first.fruits)) == len(first.fruits) <= 4
        assert set(first.fruits) <= {c.fruit for c in scene.columns}


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("apples 14, limes 6", ((APPLES, 14), (LIMES, 6))),
        ("6 limes, 14 apples", ((LIMES, 6), (APPLES, 14))),
        ("apples 14, 6 limes", ((APPLES, 14), (LIMES, 6))),
        ("apples 14, apples 6", None),
        ("apples, limes 6", None),
        ("apples 140", None),
        ("", None),
        ("pears 4", None),
        ("apples 14,limes 6", None),
    ],
)
def test_descriptions_are_parsed_or_refused(text: str, items: tuple[tuple[int, int], ...] | None) -> None:
    assert language.parse_description(text) == (None if items is None else Reading(items))


def test_written_descriptions_are_read_back_and_right() -> None:
    rng = np.random.default_rng(3)
    orders = set()
    for index in range(600):
        scene = draw_scene("iid", "train", index)
        question = language.ask(scene, rng)
        reading = language.select(language.see(scene), question, rng)
        assert language.parse_description(language.write_description(reading, rng)) == reading
        assert language.is_right(reading, scene, question)
        orders.add(tuple(question.fruits.index(f) for f, _ in reading.items if f in question.fruits))
    # Three fruits have six orders, four have twenty-four.
    assert len(orders) == 30


def test_what_is_false_or_lacks_something_is_not_right() -> None:
    scene = draw_scene("iid", "train", 0)
    question = language.ask(scene, np.random.default_rng(0))
    truth = language.see(scene)
    whole = tuple((f, truth[f]) for f in question.fruits)
    assert language.is_right(Reading(whole), scene, question)
    assert not language.is_right(Reading(whole[1:]), scene, question)
    assert not language.is_right(
        Reading(((whole[0][0], whole[0][1] % LARGEST + 1), *whole[1:])), scene, question
    )
    absent = next(f for f in range(6) if f not in truth) if len(truth) < 6 else None
    if absent is not None:
        assert not language.is_right(Reading((*whole, (absent, 5))), scene, question)
    assert not language.is_right(None, scene, question)


def test_corrupted_values_stay_in_range_and_mostly_differ() -> None:
    rng = np.random.default_rng(4)
    changed = 0
    for index in range(300):
        truth = language.see(draw_scene("iid", "train", index))
        wrong = language.corrupt(truth, rng)
        assert list(wrong) == list(truth)
        assert all(1 <= v <= LARGEST for v in wrong.values())
        changed += wrong != truth
    assert changed > 290
