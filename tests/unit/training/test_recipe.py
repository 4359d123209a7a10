"""Recipes: every shipped one parses, unknown keys and bad values are one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mirl_core.training
from mirl_core.errors import ConfigError
from mirl_core.training.recipe import Recipe
from mirl_core.training.worlds import load_recipe

RECIPES = sorted((Path(mirl_core.training.__file__).parent / "recipes" / "digits").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_parse(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe)
    assert recipe.stage in path.stem


def test_there_is_a_recipe_for_every_stage() -> None:
    assert {load_recipe(p).name for p in RECIPES} == {"lm", "vision", "joint"}


def test_every_field_is_documented() -> None:
    source = Path(sys.modules[Recipe.__module__].__file__ or "").read_text().splitlines()
    for name in Recipe.model_fields:
        line = next(i for i, text in enumerate(source) if text.startswith(f"    {name}: "))
        assert source[line + 1].strip().startswith('"""'), name


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("stage: lm\nsteps: 1\noutput: x\nspeling: 1\n", "speling"),
        ("stage: nothing\nsteps: 1\noutput: x\n", "stage"),
        ("stage: lm\nsteps: 0\noutput: x\n", "steps"),
        ("stage: lm\noutput: x\n", "steps"),
        ("- a list\n", "mapping"),
        ("a: [", "cannot read"),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mirl_core.training.cli", *words], capture_output=True, text=True, check=False
    )


def test_dry_run_prints_the_resolved_recipe(tmp_path: Path) -> None:
    done = _run("sft", "--config", str(RECIPES[0]), "--output", str(tmp_path), "--dry-run")
    assert done.returncode == 0
    assert json.loads(done.stdout)["output"] == str(tmp_path)


@pytest.mark.parametrize(
    "words", [("sft", "--config", "missing.yaml"), ("sft",), ("sft", "--nonsense"), ("nonsense",)]
)
def test_bad_input_is_one_line_and_exit_code_2(words: tuple[str, ...]) -> None:
    done = _run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("mirl-train: ")
