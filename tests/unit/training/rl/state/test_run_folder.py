"""A run's folder belongs to one recipe and one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.state.run_folder import claimed, is_finished, mark_finished
from tests.unit.training.rl.loop_cases import recipe_of


def test_the_recipe_is_kept_with_its_defaults(tmp_path: Path) -> None:
    with claimed(recipe_of(tmp_path / "run")):
        kept = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert kept["optimizer"]["learning_rate"] == 1e-6


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    with claimed(recipe), pytest.raises(ConfigError, match="another process"), claimed(recipe):
        pass
    with claimed(recipe):
        pass


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"optimizer": {"learning_rate": 1e-3}}, "optimizer.learning_rate"),
        ({"data": {"questions": 3}}, "data.questions"),
        ({"evaluation": {"n": 3}}, "evaluation.n"),
    ],
)
def test_another_recipe_may_not_go_on(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    with claimed(recipe_of(tmp_path)):
        pass
    with (
        pytest.raises(ConfigError, match="choose another output") as caught,
        claimed(recipe_of(tmp_path, **changes)),
    ):
        pass
    assert caught.value.param == key


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 60},
        {"log": {"tensorboard": True}},
        {"checkpoint": {"keep": 5}},
        {"rollout": {"engine_args": {"max_num_seqs": 3}}},
    ],
)
def test_what_changes_nothing_that_was_trained_may_change(tmp_path: Path, changes: dict[str, object]) -> None:
    with claimed(recipe_of(tmp_path)):
        pass
    again = recipe_of(tmp_path, **changes)
    with claimed(again):
        kept = RLRecipe.model_validate(yaml.safe_load((tmp_path / "recipe.yaml").read_text()))
    assert kept == again


def test_more_steps_of_a_cosine_are_another_run(tmp_path: Path) -> None:
    cosine = {"optimizer": {"schedule": "cosine"}}
    with claimed(recipe_of(tmp_path, **cosine)):
        pass
    with pytest.raises(ConfigError, match="steps"), claimed(recipe_of(tmp_path, **cosine, steps=60)):
        pass


def test_finished_is_said_last_and_not_of_more_steps(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    assert not is_finished(recipe)
    mark_finished(recipe)
    assert is_finished(recipe)
    assert not is_finished(recipe_of(tmp_path, steps=60))
    (tmp_path / "finished.json").write_text("{")
    assert not is_finished(recipe)
