"""Where questions come from: orders, epochs, resumption, shards, and the worlds' training pools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import WORLDS, DataSet, open_data
from mirl_core.tasks.questions import Question, is_right
from mirl_core.tasks.worlds import digits
from mirl_core.training.rl.planners import question_source
from mirl_core.training.rl.planners.question_source import (
    FIRST_SCENE,
    DataCursor,
    QuestionSet,
    QuestionSource,
)
from mirl_core.training.rl.recipe.config import DataConfig

IMAGE = Image.new("RGB", (8, 8))


def numbered(name: str, size: int) -> QuestionSet:
    return QuestionSet(name, size, lambda place: Question(f"{name}{place}", "what?", "1", lambda: IMAGE))


def keys(source: QuestionSource, cursor: DataCursor, batches: int) -> tuple[list[list[str]], DataCursor]:
    keys_by_batch = []
    for _ in range(batches):
        questions, cursor = source.batch(cursor)
        keys_by_batch.append([question.key for question in questions])
    return keys_by_batch, cursor


@given(
    sizes=st.lists(st.integers(4, 20), min_size=1, max_size=3),
    questions=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    before=st.integers(0, 12),
    after=st.integers(1, 12),
)
@settings(deadline=None)
def test_a_resumed_run_has_the_questions_it_would_have_had(
    sizes: list[int], questions: int, seed: int, before: int, after: int
) -> None:
    sets = [numbered(name, size) for name, size in zip("abc", sizes, strict=False)]
    whole, end = keys(QuestionSource(sets, questions, seed), DataCursor(), before + after)
    _, cursor = keys(QuestionSource(sets, questions, seed), DataCursor(), before)
    resumed = DataCursor.from_json(json.loads(json.dumps(cursor.to_json())))
    assert resumed == cursor
    assert keys(QuestionSource(sets, questions, seed), resumed, after) == (whole[before:], end)
    assert all(len(set(batch)) == questions for batch in whole)


@given(size=st.integers(1, 30), seed=st.integers(0, 99), epochs=st.integers(1, 3))
@settings(deadline=None)
def test_an_epoch_has_every_question_once(size: int, seed: int, epochs: int) -> None:
    keys_by_batch, cursor = keys(QuestionSource([numbered("a", size)], 1, seed), DataCursor(), size * epochs)
    for epoch in range(epochs):
        passed = [key for batch in keys_by_batch[epoch * size : (epoch + 1) * size] for key in batch]
        assert sorted(passed) == sorted(f"a{place}" for place in range(size))
    assert cursor == DataCursor(epochs - 1, size)


def test_orders_differ_by_epoch_seed_and_set() -> None:
    source = QuestionSource([numbered("a", 50), numbered("b", 50)], 100, 0)
    (first, second), _ = keys(source, DataCursor(), 2)
    (other,), _ = keys(QuestionSource([numbered("a", 50), numbered("b", 50)], 100, 1), DataCursor(), 1)
    orders = [first[::2], second[::2], other[::2], [key.replace("b", "a") for key in first[1::2]]]
    assert len({tuple(order) for order in orders}) == 4


def test_sets_take_turns_and_the_smallest_ends_the_epoch() -> None:
    source = QuestionSource([numbered("a", 100), numbered("b", 6)], 5, 0)
    batches, cursor = keys(source, DataCursor(), 3)
    assert [key[0] for key in batches[0]] == list("ababa")
    assert [key[0] for key in batches[1]] == list("babab")
    assert cursor == DataCursor(1, 5), "two of the first epoch's twelve are left out"
    assert batches[0][0].startswith("a:a")


def test_a_batch_must_be_filled() -> None:
    with pytest.raises(ConfigError, match="hold only 3") as caught:
        QuestionSource([numbered("a", 3)], 4, 0)
    assert caught.value.param == "data.questions"
    with pytest.raises(ConfigError, match="4 a step, but a, b hold only 2, mixed evenly"):
        QuestionSource([numbered("a", 3), numbered("b", 1)], 4, 0)
    with pytest.raises(ConfigError, match="named twice"):
        QuestionSource.open(DataConfig(sets=("digits/iid", "digits/iid")), 0)


@pytest.mark.parametrize("invalid", [{"epoch": -1, "position": 0}, {"epoch": 0, "place": 1}])
def test_a_cursor_that_is_none(invalid: dict[str, int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        DataCursor.from_json(invalid)


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_training_questions_are_judged(name: str) -> None:
    source = QuestionSource.open(DataConfig(sets=(name,), questions=40), 3)
    questions, _ = source.batch(DataCursor())
    assert len({question.key for question in questions}) == 40
    assert len({question.family for question in questions}) > 1
    for question in questions:
        assert "-train-" in question.key
        assert is_right(question, question.answer)
        assert question.image().size == (64, 64)
        assert question.describes is not None
        assert not question.describes("there is nothing")
    again, _ = QuestionSource.open(DataConfig(sets=(name,), questions=40), 3).batch(DataCursor())
    assert [(question.key, question.text, question.answer) for question in again] == [
        (question.key, question.text, question.answer) for question in questions
    ]


def test_digits_scenes_are_drawn_late_and_far_from_supervised_trainings() -> None:
    source = QuestionSource.open(DataConfig(sets=("digits/shifted",), questions=1, limit=1), 0)
    (question,), _ = source.batch(DataCursor())
    scene = digits.draw_scene("shifted", "train", FIRST_SCENE)
    assert question.key == scene.name
    assert np.array_equal(np.asarray(question.image()), digits.render([scene])[0])
    # Stages 1 to 3 draw from (stage · 10⁶ + step) · 10³ + picture.
    assert FIRST_SCENE > (3 * 1_000_000 + 1_000_000) * 1_000 + 1_000


def test_describes_knows_the_truth() -> None:
    source = QuestionSource.open(DataConfig(sets=("easy-vqa",), questions=30), 0)
    questions, _ = source.batch(DataCursor())
    right = [
        sum(question.describes(f"a {colour} {shape}") for colour in ("red", "blue") for shape in ("circle",))
        for question in questions
        if question.describes is not None
    ]
    assert 0 < sum(right) < 2 * len(right)


def test_a_limit_uses_every_easy_vqa_picture_before_any_twice() -> None:
    source = QuestionSource.open(DataConfig(sets=("easy-vqa",), questions=300, limit=300), 0)
    questions, _ = source.batch(DataCursor())
    assert len({question.clusters[0] for question in questions}) == 300


def test_a_world_without_a_limit_ends_at_20_000() -> None:
    assert QuestionSource.open(DataConfig(), 0).epoch_questions == 20_000


def test_other_parts_are_those_of_the_evaluation() -> None:
    questions, _ = QuestionSource.open(
        DataConfig(sets=("digits/iid",), part="dev", limit=2, questions=2), 0
    ).batch(DataCursor())
    assert {question.key for question in questions} == {
        question.key for question in open_data("digits/iid", "dev", 2, 0).questions
    }
    with pytest.raises(ConfigError, match="reports only"):
        QuestionSource.open(DataConfig(part="test"), 0)


def test_files(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": f"What is {n}?", "answer": str(n)} for n in range(4)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    source = QuestionSource.open(DataConfig(sets=(str(path), "digits/iid"), questions=8), 0)
    questions, _ = source.batch(DataCursor())
    assert sorted(question.answer for question in questions[::2]) == ["0", "1", "2", "3"]
    with pytest.raises(ConfigError, match="mapping"):
        QuestionSource.open(DataConfig(sets=(str(path),), mapping=path), 0)


def test_the_mapping_is_for_sets_of_the_hub_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mappings: dict[str, Path | None] = {}

    def opened(name: str, part: str, limit: int | None, seed: int, mapping: Path | None) -> DataSet:
        mappings[name] = mapping
        return open_data("digits/iid", "dev", 2, seed)

    monkeypatch.setattr(question_source, "open_data", opened)
    mapping = Path("columns.yaml")
    sets = ("hf:some/thing", "data.jsonl", "digits/iid")
    QuestionSource.open(DataConfig(sets=sets, part="dev", questions=3, mapping=mapping), 0)
    assert mappings == {"hf:some/thing": mapping, "data.jsonl": None, "digits/iid": None}
