"""Written solutions of the charts world: right in every order, and of many kinds."""

from __future__ import annotations

import numpy as np
import pytest

from mirl_core.tasks.worlds.charts import language, reasoning
from mirl_core.tasks.worlds.charts.language import FAMILIES, Family, Question, Reading
from mirl_core.tasks.worlds.charts.scenes import draw_scene


@pytest.mark.parametrize("family", FAMILIES)
def test_solutions_are_right_and_end_in_the_answer(family: Family) -> None:
    rng = np.random.default_rng(1)
    for index in range(150):
        scene = draw_scene("iid", "train", index)
        question = language.ask(scene, rng, family)
        reading = Reading(tuple(language.corrupt(language.see(scene), rng).items()))
        chain, answer = reasoning.reason(question, reading, rng)
        assert answer == language.imply(question, reading)
        assert all(right for _, right in reasoning.equations(chain))
        assert chain.removesuffix(".").split("=")[-1].split(" ")[-1] == answer or chain.endswith(
            f" {answer}."
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_one_description_has_many_solutions(family: Family) -> None:
    scene = draw_scene("iid", "train", 2)
    question = language.ask(scene, np.random.default_rng(0), family)
    reading = Reading(tuple(language.see(scene).items()))
    rng = np.random.default_rng(5)
    assert len({reasoning.reason(question, reading, rng)[0] for _ in range(100)}) >= 6


def test_a_reading_that_lacks_a_fruit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not say enough"):
        reasoning.reason(
            Question("total", 0, ((0, 1, 2),), None, ""), Reading(((0, 3), (1, 4))), np.random.default_rng(0)
        )


def test_equations_are_judged() -> None:
    assert reasoning.equations("22+12, 22+10=32, 32+2=35. 35-6=29.") == [
        ("22+10=32", True),
        ("32+2=35", False),
        ("35-6=29", True),
    ]


@pytest.mark.parametrize(
    ("chain", "kept"),
    [
        ("order limes, apples: limes 6. apples 14: 6+14=20.", True),
        ("limes 6. apples 15: 6+15=21.", False),
        ("limes 6. grapes 4: 6+4=10.", False),
        ("6+14=20.", False),
        ("apples 14>10, 14-10=4. limes 6<10, 4.", True),
    ],
)
def test_chains_keep_to_a_reading_or_not(chain: str, kept: bool) -> None:
    assert reasoning.follows(chain, Reading(((0, 14), (3, 6)))) is kept


@pytest.mark.parametrize("family", FAMILIES)
def test_written_solutions_keep_to_their_reading(family: Family) -> None:
    rng = np.random.default_rng(8)
    for index in range(60):
        scene = draw_scene("iid", "train", index)
        question = language.ask(scene, rng, family)
        reading = language.select(language.corrupt(language.see(scene), rng), question, rng)
        assert reasoning.follows(reasoning.reason(question, reading, rng)[0], reading)


def test_exercises_are_right() -> None:
    chain = reasoning.exercises(300, np.random.default_rng(2))
    judged = reasoning.equations(chain)
    assert len(judged) > 300
    assert all(right for _, right in judged)
