"""A run whose checkpoints are damaged or gone is refused before an engine starts, and keeps its metrics."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirl_core.errors import ConfigError
from mirl_core.training.rl import run
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.state import checkpoint
from mirl_core.training.rl.state.run_folder import check_origin, claimed, lost_checkpoint
from mirl_core.training.state_files import mark_saved
from mirl_core.training.step_lines import Lines, read_lines
from tests.unit.training.rl.loop_cases import recipe_of
from tests.unit.training.rl.state.damage_cases import cut_state, empty_state, flip_bit, make_trainer


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder after four steps, with a checkpoint every second; starting its engine fails the test."""

    def never(*arguments: Any) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(run, "opened_sampler", never)
    with claimed(recipe_of(tmp_path)):
        pass
    lines = Lines(tmp_path / "metrics.jsonl")
    for step in range(1, 5):
        lines.log(step, {"loss": 0.5})
    lines.close()
    checkpoint.save(tmp_path / "checkpoints", 4, make_trainer())
    mark_saved(tmp_path, 4)
    return tmp_path


def start(folder: Path, **changes: Any) -> None:
    asyncio.run(run.train(recipe_of(folder, **changes), ProcessGroup(), asyncio.Event()))


@pytest.mark.parametrize("damage", [cut_state, empty_state, flip_bit, shutil.rmtree])
def test_a_damaged_only_checkpoint_ends_the_run_before_it_begins(
    made: Path, damage: Callable[[Path], object]
) -> None:
    damage(made / "checkpoints" / "step-00000004")
    before = (made / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="step-00000004 is damaged") as caught:
        start(made)
    assert caught.value.param == "output"
    assert (made / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("earlier_version", [False, True])
def test_checkpoints_that_are_gone_are_missed(made: Path, earlier_version: bool) -> None:
    shutil.rmtree(made / "checkpoints")
    if earlier_version:
        (made / "saved.json").unlink()
    before = (made / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds no checkpoint, and "):
        start(made)
    # The recipe's own interval may change; that of the last start counts.
    with pytest.raises(ConfigError, match="holds no checkpoint, and "):
        start(made, checkpoint={"every": 5})
    assert (made / "metrics.jsonl").read_bytes() == before


def test_a_whole_checkpoint_lets_the_engine_start(made: Path) -> None:
    with pytest.raises(AssertionError, match="the engine was started"):
        start(made)


@pytest.mark.parametrize(
    ("steps", "saved", "lost"),
    [(0, None, False), (1, None, False), (2, None, False), (3, None, True), (1, 1, True), (0, 2, True)],
)
def test_only_a_run_that_has_saved_must_have_a_checkpoint(
    tmp_path: Path, steps: int, saved: int | None, lost: bool
) -> None:
    """A process that died before its first checkpoint begins again."""
    recipe = recipe_of(tmp_path)
    assert lost_checkpoint(recipe, None) == ""
    lines = Lines(tmp_path / "metrics.jsonl")
    for step in range(1, steps + 1):
        lines.log(step, {})
    lines.close()
    if saved is not None:
        mark_saved(tmp_path, saved)
    assert bool(lost_checkpoint(recipe, recipe)) is lost


def test_a_run_without_its_recipe_is_nobody_s(made: Path) -> None:
    (made / "recipe.yaml").unlink()
    with pytest.raises(ConfigError, match=r"holds a run without its recipe\.yaml"):
        start(made)
    assert not (made / "recipe.yaml").exists()
    (made / "recipe.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"recipe\.yaml must be a mapping"):
        start(made)


@pytest.mark.parametrize(
    ("steps", "at", "new", "words"),
    [
        (
            4,
            2,
            False,
            "the checkpoint is of step 2: steps 3 to 4 are made again, and their lines are dropped",
        ),
        (2, 0, True, "there is no checkpoint yet: steps 1 to 2 are made again"),
        (1, 4, False, "ends at step 1, and the checkpoint is of step 4: the lines between are lost"),
        (4, 4, False, ""),
        (0, 0, True, ""),
    ],
)
def test_metrics_that_don_t_fit_the_checkpoint_are_named(
    tmp_path: Path, steps: int, at: int, new: bool, words: str
) -> None:
    lines = Lines(tmp_path / "metrics.jsonl")
    for step in range(1, steps + 1):
        lines.log(step, {})
    lines.close()
    said: list[str] = []
    run._note_metrics(recipe_of(tmp_path), at, new, said.append)
    assert [words in line for line in said] == [True] * bool(words)


def test_a_run_that_begins_with_other_questions_is_another_run(made: Path) -> None:
    recipe: RLRecipe = recipe_of(made)
    check_origin(recipe, {"model": "a", "data": {"x.jsonl": "1"}}, lambda line: None)
    assert json.loads((made / "origin.json").read_text())["data"] == {"x.jsonl": "1"}
    check_origin(recipe, {"model": "a", "data": {"x.jsonl": "1"}}, lambda line: None)
    for origin, key in (
        ({"model": "b", "data": {"x.jsonl": "1"}}, "model"),
        ({"model": "a", "data": {"x.jsonl": "2"}}, "data.sets"),
    ):
        with pytest.raises(ConfigError, match="has changed since the run began") as caught:
            check_origin(recipe, origin, lambda line: None)
        assert caught.value.param == key
    (made / "origin.json").unlink()
    said: list[str] = []
    check_origin(recipe, {"model": "a", "data": {}}, said.append)
    assert ["earlier version" in line for line in said] == [True]
    assert read_lines(made / "metrics.jsonl")
