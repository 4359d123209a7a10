"""Worlds: a recipe's world chooses its fields and its trainer; folders move together."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirl_core.errors import ConfigError
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.recipe import Recipe
from mirl_core.training.worlds import load_recipe


def _write(folder: Path, content: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content)
    return path


def test_a_recipe_without_a_world_is_about_digits(tmp_path: Path) -> None:
    assert isinstance(load_recipe(_write(tmp_path, "stage: lm\nsteps: 1\noutput: x\n")), Recipe)


def test_a_recipe_of_the_charts_world_has_its_fields(tmp_path: Path) -> None:
    recipe = load_recipe(
        _write(tmp_path, "world: charts\nsteps: 1\noutput: /a/x\ninit: /a/y\ntables: 0.25\n")
    )
    assert recipe == ChartsRecipe(steps=1, output=Path("/a/x"), init=(Path("/a/y"),), tables=0.25)
    assert recipe.name == "x"


@pytest.mark.parametrize("world", ["moons", "[charts]", "1"])
def test_an_unknown_world_is_refused_by_name(tmp_path: Path, world: str) -> None:
    with pytest.raises(ConfigError, match="world must be one of digits, charts") as caught:
        load_recipe(_write(tmp_path, f"world: {world}\nsteps: 1\noutput: x\n"))
    assert caught.value.param == "world"


def test_fields_of_another_world_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'slips'"):
        load_recipe(_write(tmp_path, "world: charts\nsteps: 1\noutput: x\nslips: 0.1\n"))


def test_a_root_moves_all_folders_but_those_that_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "stage: joint\nsteps: 1\noutput: /a/x\ninit: [/a/lm, /b/vision]\n")
    recipe = load_recipe(path, root=tmp_path)
    assert recipe.output == tmp_path / "x"
    assert recipe.init == (tmp_path / "lm", tmp_path / "vision")
    named = load_recipe(path, {"output": Path("/c/z")}, tmp_path)
    assert named.output == Path("/c/z")
    assert named.init == (tmp_path / "lm", tmp_path / "vision")
