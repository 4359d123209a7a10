"""The charts recipes: the shipped ones follow each other, every field is documented."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import mirl_core.training
from mirl_core.errors import ConfigError
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.recipe import validated
from mirl_core.training.worlds import load_recipe

RECIPES = sorted((Path(mirl_core.training.__file__).parent / "recipes" / "charts").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_each_shipped_recipe_starts_from_the_output_before_it(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, ChartsRecipe)
    before = [load_recipe(p).output for p in RECIPES if p.stem < path.stem]
    assert recipe.init == tuple(before[-1:])


def test_makefile_trains_the_shipped_recipes() -> None:
    lines = (Path(mirl_core.training.__file__).parents[2] / "Makefile").read_text().splitlines()
    stages = next(line for line in lines if line.startswith("CHARTS_STAGES := ")).split()[2:]
    assert stages == [path.stem for path in RECIPES]


def test_every_field_is_documented() -> None:
    source = Path(sys.modules[ChartsRecipe.__module__].__file__ or "").read_text().splitlines()
    for name in ChartsRecipe.__annotations__:
        line = next(i for i, text in enumerate(source) if text.startswith(f"    {name}: "))
        assert source[line + 1].strip().startswith('"""'), name


def test_a_stage_starts_from_one_folder_at_most(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 1 item") as caught:
        validated({"steps": 1, "output": "x", "init": ["a", "b"]}, ChartsRecipe, tmp_path)
    assert caught.value.param == "init"
