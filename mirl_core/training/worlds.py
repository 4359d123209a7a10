"""The worlds of supervised stages: the recipe and the trainer of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.errors import ConfigError
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.recipe import Recipe, StageRecipe, read_yaml, validated

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
    if root is None:
        return recipe
    moved = {"output": root / recipe.output.name, "init": tuple(root / folder.name for folder in recipe.init)}
    return recipe.model_copy(update={k: v for k, v in moved.items() if k not in changes})


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
