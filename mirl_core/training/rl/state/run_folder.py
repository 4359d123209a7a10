"""A run's folder: lock, recipe, and whether the run is finished.

recipe.yaml      the recipe, defaults included
checkpoints/     resumable states (checkpoint.py)
origin.json      fingerprint of the model, and digests of the data, that the run began with
saved.json       the step of the newest checkpoint: without it, a lost checkpoint looks like none
export/          Hugging Face folders: final/, and step-NNNNNN/ where the recipe sets `export_every`
finished.json    written last
lock             held while a process works here
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.training.recipe import read_yaml, validated
from mirl_core.training.rl.recipe.checks import dump
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.state_files import saved_step, write_text
from mirl_core.training.step_lines import read_lines

__all__ = [
    "CHECKPOINTS",
    "EXPORT",
    "FINAL",
    "METRICS",
    "check_origin",
    "claimed",
    "is_finished",
    "lost_checkpoint",
    "mark_finished",
]

CHECKPOINTS = "checkpoints"
EXPORT = "export"
FINAL = "final"
"""The export of a finished run."""
METRICS = "metrics.jsonl"
_RECIPE = "recipe.yaml"
_ORIGIN = "origin.json"
_FINISHED = "finished.json"
_MAY_CHANGE = ("output", "log", "checkpoint", "assumed_parameters")
"""Keys that change nothing about the trained model."""
_ENGINE = ("engine", "engine_args", "weights", "weights_folder", "weights_address")


@contextmanager
def claimed(recipe: RLRecipe) -> Iterator[RLRecipe | None]:
    """Hold the output folder for this process alone; create it if it is missing, and check that it holds
    this recipe's run. Yield the recipe of the last start; None where there was none.

    Raises:
        ConfigError: another process is at work there, or it holds a run of another recipe, or of none.
    """
    folder = recipe.output
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"output: another process is at work in {folder}", param="output") from error
        path = folder / _RECIPE
        earlier = None
        if path.is_file():
            earlier = validated(read_yaml(path), RLRecipe, path)
            _compare(earlier, recipe)
        elif (folder / METRICS).exists() or (folder / CHECKPOINTS).exists():
            raise ConfigError(
                f"output: {folder} holds a run without its {_RECIPE}; put that file back, or choose another "
                "output",
                param="output",
            )
        write_text(path, dump(recipe))
        yield earlier


def is_finished(recipe: RLRecipe) -> bool:
    """Return whether the run has made all its steps and exported its model."""
    path = recipe.output / _FINISHED
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"]) >= recipe.steps
    except (OSError, ValueError, KeyError, TypeError):
        return False


def lost_checkpoint(recipe: RLRecipe, earlier: RLRecipe | None) -> str:
    """Return words that say why the run must have a checkpoint; empty: it may have none.

    Args:
        earlier: the recipe of the last start.
    """
    saved = saved_step(recipe.output)
    if saved is not None:
        return f"one of step {saved} was written" if saved else "one was written"
    # Earlier versions write no such file, but the metrics of a step after the first checkpoint.
    lines = read_lines(recipe.output / METRICS)
    if earlier is not None and lines and lines[-1]["step"] > earlier.checkpoint.every:
        return f"{METRICS} has {lines[-1]['step']} steps, with a checkpoint every {earlier.checkpoint.every}"
    return ""


def check_origin(recipe: RLRecipe, origin: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Check that a resumed run has the model and the questions of its first start; note both at that start.

    Args:
        origin: `model`: a fingerprint; `data`: data set → digest of its questions.
        say: called with a line where an earlier version began the run, which noted neither.

    Raises:
        ConfigError: model or questions have changed.
    """
    path = recipe.output / _ORIGIN
    if not path.exists():
        if read_lines(recipe.output / METRICS):
            say("an earlier version began this run and noted neither model nor questions: NOT checked")
        write_text(path, json.dumps(origin, indent=1) + "\n")
        return
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        model, data = noted["model"], dict(noted["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"output: {path} can't be read: {error}", param="output") from error
    if model != origin["model"]:
        raise ConfigError(
            f"model: {recipe.model} has changed since the run began; put the old one back, or choose another "
            "output",
            param="model",
        )
    for name, digest in origin["data"].items():
        if data.get(name) != digest:
            raise ConfigError(
                f"data.sets: {name} has changed since the run began; put the old questions back, or choose "
                "another output",
                param="data.sets",
            )


def mark_finished(recipe: RLRecipe) -> None:
    """Mark the run as finished; call it last."""
    write_text(recipe.output / _FINISHED, json.dumps({"step": recipe.steps}) + "\n")


def _compare(old: RLRecipe, new: RLRecipe) -> None:
    """Raise ConfigError if the new recipe would train another run than the old one."""
    old_values, new_values = _comparable(old), _comparable(new)
    differing = [key for key in new_values if old_values.get(key) != new_values[key]]
    if old.optimizer.schedule == "constant":
        # More steps at a constant rate continue the same run; a cosine schedule depends on the number of
        # steps.
        differing = [key for key in differing if key != "steps"]
    if differing:
        raise ConfigError(
            f"{differing[0]}: the run in {new.output} has {old_values.get(differing[0])!r}, not "
            f"{new_values[differing[0]]!r}; choose another output",
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
