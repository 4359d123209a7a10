"""A run's folder: lock, recipe, and whether the run is finished.

recipe.yaml      the recipe, defaults included
checkpoints/     resumable states (checkpoint.py)
export/          Hugging Face folders: final/, and step-NNNNNN/ where the recipe sets `export_every`
finished.json    written last
lock             held while a process works here
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.training.recipe import read_yaml, validated
from mirl_core.training.rl.recipe.checks import dump
from mirl_core.training.rl.recipe.config import RLRecipe

__all__ = ["CHECKPOINTS", "EXPORT", "claimed", "is_finished", "mark_finished", "write_whole"]

CHECKPOINTS = "checkpoints"
EXPORT = "export"
_RECIPE = "recipe.yaml"
_FINISHED = "finished.json"
_MAY_CHANGE = ("output", "log", "checkpoint", "assumed_parameters")
"""Keys that change nothing about the trained model."""
_ENGINE = ("engine", "engine_args", "weights", "weights_folder", "weights_address")


@contextmanager
def claimed(recipe: RLRecipe) -> Iterator[None]:
    """Hold the output folder for this process alone; create it if it is missing, and check that it holds this
    recipe's run.

    Raises:
        ConfigError: another process is at work there, or it holds a run of another recipe.
    """
    folder = recipe.output
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"output: another process is at work in {folder}", param="output") from error
        path = folder / _RECIPE
        if path.is_file():
            _compare(validated(read_yaml(path), RLRecipe, path), recipe)
        write_whole(path, dump(recipe))
        yield


def is_finished(recipe: RLRecipe) -> bool:
    """Return whether the run has made all its steps and exported its model."""
    path = recipe.output / _FINISHED
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"]) >= recipe.steps
    except (OSError, ValueError, KeyError, TypeError):
        return False


def mark_finished(recipe: RLRecipe) -> None:
    """Mark the run as finished; call it last."""
    write_whole(recipe.output / _FINISHED, json.dumps({"step": recipe.steps}) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file that readers see old or new, never half-written."""
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _compare(old: RLRecipe, new: RLRecipe) -> None:
    """Raise ConfigError if the new recipe would train another run than the old one."""
    left, right = _comparable(old), _comparable(new)
    differing = [key for key in right if left.get(key) != right[key]]
    if old.optimizer.schedule == "constant":
        # More steps at a constant rate continue the same run; a cosine schedule depends on the number of
        # steps.
        differing = [key for key in differing if key != "steps"]
    if differing:
        raise ConfigError(
            f"{differing[0]}: the run in {new.output} has {left.get(differing[0])!r}, not "
            f"{right[differing[0]]!r}; choose another output",
            param=differing[0],
        )


def _comparable(recipe: RLRecipe) -> dict[str, Any]:
    """Return dotted key → value for all keys that affect training."""
    values = recipe.model_dump(mode="json", exclude=set(_MAY_CHANGE))
    values["rollout"] = {key: value for key, value in values["rollout"].items() if key not in _ENGINE}
    return dict(_flat(values, ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
