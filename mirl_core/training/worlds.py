"""The worlds of supervised stages: the recipe and the trainer of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.errors import ConfigError
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.recipe import Recipe, StageRecipe, read_yaml, validated
from mirl_core.training.state_files import WEIGHTS, check_writable

if TYPE_CHECKING:
    from mirl_core.training.sft.stage import Stage

_RECIPES: Mapping[str, type[StageRecipe]] = {"digits": Recipe, "charts": ChartsRecipe}


def load_recipe(
    path: Path, changes: Mapping[str, Any] | None = None, root: Path | None = None
) -> StageRecipe:
    """Return the stage in a YAML file.

    Args:
        path: the file; its key `world` names the world, digits without it.
        changes: settings that replace the file's.
        root: folder that replaces the parent of `output` and of each folder in `init`, except in `changes`.

    Raises:
        ConfigError: the file cannot be read or does not describe a stage.
    """
    changes = changes or {}
    raw = {**read_yaml(path), **changes}
    world = raw.get("world", "digits")
    if not isinstance(world, str) or world not in _RECIPES:
        known = ", ".join(_RECIPES)
        raise ConfigError(f"recipe {path}: world must be one of {known} (got {world!r:.80})", param="world")
    recipe = validated(raw, _RECIPES[world], path)
    if root is not None:
        init = tuple(root / folder.name for folder in recipe.init)
        moved = {"output": root / recipe.output.name, "init": init}
        recipe = recipe.model_copy(update={k: v for k, v in moved.items() if k not in changes})
    return recipe


def check_recipe(recipe: StageRecipe) -> None:
    """Raise ConfigError where the stage's settings contradict each other; `param` is the key."""
    for problem in recipe.contradictions():
        raise problem.error()


def check_files(recipe: StageRecipe, export: Path | None = None) -> None:
    """Check the files that a stage starts from and the folders that it writes, before torch is imported.

    Raises:
        ConfigError: a stage in `init` is unfinished, or a folder can't be written; `param` is the key.
    """
    for folder in recipe.init:
        if not (folder / WEIGHTS).exists():
            raise ConfigError(
                f"{folder / WEIGHTS} does not exist: finish the stage of that folder first", param="init"
            )
    check_writable(recipe.output, "output")
    if export is not None:
        check_writable(export, "export")


def build_stage(recipe: StageRecipe) -> Stage[Any, Any]:
    """Return the trainer of a recipe; it imports torch.

    Raises:
        ConfigError: a stage in `init` is unfinished, or the checkpoint belongs to another recipe.
    """
    if isinstance(recipe, ChartsRecipe):
        from mirl_core.training.charts.trainer import ChartsTrainer

        return ChartsTrainer(recipe)
    from mirl_core.training.sft.trainer import Trainer

    assert isinstance(recipe, Recipe)
    return Trainer(recipe)
