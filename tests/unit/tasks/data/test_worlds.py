"""The worlds as data sets."""

from __future__ import annotations

import numpy as np
import pytest

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import WORLDS, names, open_data
from mirl_core.tasks.data import worlds as worlds_module
from mirl_core.tasks.data.worlds import references
from mirl_core.tasks.questions import Question, is_right
from mirl_core.tasks.worlds.cases import digits_cases, easy_cases


def pixels(question: Question) -> list[int]:
    return np.asarray(question.image()).ravel().tolist()


def test_the_names_agree() -> None:
    assert worlds_module.NAMES == WORLDS
    assert set(WORLDS) < set(names())


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("part", ["dev", "test"])
def test_keys_are_unique_and_a_larger_limit_only_appends(name: str, part: str) -> None:
    few, more = (open_data(name, part, limit, seed=3) for limit in (8, 20))
    assert (few.name, few.part, len(few.questions), len(more.questions)) == (name, part, 8, 20)
    assert [q.key for q in few.questions] == [q.key for q in more.questions[:8]]
    assert [pixels(q) for q in few.questions] == [pixels(q) for q in more.questions[:8]]
    assert len({q.key for q in more.questions}) == 20
    assert all(q.clusters and q.family and is_right(q, q.answer) for q in more.questions)


@pytest.mark.parametrize("name", ["digits/iid", "charts/shifted", "easy-vqa"])
def test_skipped_questions_are_the_first(name: str) -> None:
    every = open_data(name, "dev", 12, seed=3)
    fresh = open_data(name, "dev", 5, seed=3, skip=7)
    assert (fresh.name, fresh.part) == (every.name, every.part)
    assert [q.key for q in fresh.questions] == [q.key for q in every.questions[7:]]
    assert [pixels(q) for q in fresh.questions] == [pixels(q) for q in every.questions[7:]]


def test_digits_questions_are_the_model_cards_with_scene_and_glyphs() -> None:
    data = open_data("digits/ambiguous", "test", 30, seed=0)
    cases = digits_cases("digits-ambiguous", "test", 30)
    for question, case in zip(data.questions, cases, strict=True):
        assert case.scene is not None
        assert question.key == question.clusters[0] == case.scene.name
        glyphs = {glyph for thing in case.scene.objects for glyph in (thing.glyph, thing.other_glyph)}
        assert set(question.clusters[1:]) == {f"glyph-{glyph}" for glyph in glyphs}
        assert (question.text, question.answer, question.family) == (case.question, case.answer, case.family)
        assert question.describes is not None
        assert question.describes(case.right_description)
        assert not question.describes(case.wrong_description)
    assert data.questions[0].key == "digits-ambiguous-test-000000"
    assert data.questions[0].image().size == (64, 64)


def test_easy_vqa_spreads_a_sample_over_pictures_and_judges_descriptions() -> None:
    data = open_data("easy-vqa", "dev", 200, seed=1)
    assert len({q.clusters for q in data.questions}) == 200
    cases = {(case.clusters, case.question): case for case in easy_cases("dev")}
    for question in data.questions:
        case = cases[question.clusters, question.text]
        assert (question.answer, question.family) == (case.answer, case.family)
        assert question.describes is not None
        assert question.describes(case.right_description)
        assert not question.describes(case.wrong_description)
        assert pixels(question) == np.asarray(case.image).ravel().tolist()
    whole = open_data("easy-vqa", "dev", None, seed=2)
    assert sorted((q.clusters, q.text) for q in whole.questions) == sorted(
        (case.clusters, case.question) for case in easy_cases("dev")
    )
    assert [q.key for q in whole.questions[:9]] != [q.key for q in data.questions[:9]]


@pytest.mark.parametrize("name", WORLDS)
def test_reference_pictures_come_from_training_only(name: str) -> None:
    first, again, other = (references(name, 6, seed) for seed in (0, 0, 1))
    seen = [np.asarray(image).tobytes() for image in first]
    assert len(set(seen)) == 6
    assert seen == [np.asarray(image).tobytes() for image in again]
    assert seen != [np.asarray(image).tobytes() for image in other]
    assert all(image.mode == "RGB" and image.size == (64, 64) for image in first)
    tested = {np.asarray(q.image()).tobytes() for q in open_data(name, "test", 300, 0).questions}
    assert not tested & set(seen)


def test_reference_pictures_of_other_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="no training pictures"):
        references("photos.jsonl", 4, 0)
    with pytest.raises(ConfigError, match="references: 0"):
        references("easy-vqa", 0, 0)


@pytest.mark.parametrize(
    ("name", "part", "limit", "complaint"),
    [
        ("digits/iid", "train", 5, "digits/iid has no part 'train'; there are: dev, test"),
        ("digits/idd", "test", 5, "data: there is no 'digits/idd'; there are: digits/iid"),
        ("digits/iid", "test", 0, "n: 0 questions"),
    ],
)
def test_wrong_names_say_what_there_is(name: str, part: str, limit: int, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        open_data(name, part, limit, 0)
    assert "\n" not in caught.value.message
