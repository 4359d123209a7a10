"""Checkpoints of a training run, from which it continues exactly.

    FOLDER/step-00000040/state.pt         weights, optimiser, step, random generators, cursor
    FOLDER/step-00000040/checkpoint.json  the size that state.pt must have; written last
    FOLDER/latest                         link to the newest

A checkpoint is written into a partial folder, flushed to the disk, and renamed: a folder with its final name
is whole. If one is damaged later (a file is cut off, missing, or a bit of it is changed), it is never passed
over in silence: training goes on from the next older one and says so, or is refused where there is no other.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mirl_core.errors import ConfigError
from mirl_core.training.rl.distributed.ranks import from_all, from_first
from mirl_core.training.rl.model.trainer import Trainer
from mirl_core.training.state_files import read_state

_LOG = logging.getLogger(__name__)
_FOLDER = re.compile(r"step-(\d+)")
_FORMAT = 1
_KEYS = ("format", "step", "cursor", "extra", "random", "weights", "optimizer")


@dataclass(frozen=True, slots=True)
class Resumed:
    """The content of a checkpoint beside the trainer's state."""

    step: int
    """Optimiser steps done on batches of rollouts."""
    cursor: Any
    """The position in the data, as given to `save`."""
    extra: Mapping[str, Any]
    """As given to `save`."""
    folder: Path


def save(
    folder: Path,
    step: int,
    trainer: Trainer,
    cursor: Any = None,
    extra: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, whole or not at all. Every rank calls this; the first writes.

    Args:
        folder: of the run's checkpoints; created if it is missing.
        step: names the checkpoint; a checkpoint of the same step is replaced.
        trainer: whose state is saved.
        cursor: plain JSON values.
        extra: plain JSON values.
        keep: how many checkpoints stay, the new one included.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: the checkpoint can't be written; raised on every rank. Older checkpoints stay.
    """
    state = trainer.state()
    rngs = from_all(_random_states(), trainer.accelerator)
    target = folder / f"step-{step:08d}"
    error: OSError | None = None
    if trainer.accelerator.is_main_process:
        header = {"step": step, "cursor": cursor, "extra": dict(extra or {})}
        try:
            _write(target, {**state, **header, "random": rngs})
            _retain(folder, target, keep)
        except OSError as problem:
            error = problem
    if (failed := from_first(error, trainer.accelerator)) is not None:
        raise failed
    return target


def load(
    folder: Path, trainer: Trainer, say: Callable[[str], None] = _LOG.warning, lost: str = ""
) -> Resumed | None:
    """Continue from the newest checkpoint, or refuse. Every rank calls this; the first reads.

    Restore each rank's random generators; a rank that the saved run did not have keeps its own.

    Args:
        folder: of the run's checkpoints.
        trainer: gets the state.
        say: called by the first rank with a line on every newer checkpoint that is damaged; these are renamed
            to `damaged-step-…`.
        lost: why there must be a checkpoint; empty: there may be none.

    Returns:
        The checkpoint's content; None if there is no checkpoint.

    Raises:
        ConfigError: all checkpoints are damaged, or none is there although one was `lost`; or it is of
            another version, model or trained parameters. Raised on every rank.
    """
    newest: tuple[Path, dict[str, Any]] | None = None
    outcome: dict[str, Any] | str | None = None
    if trainer.accelerator.is_main_process:
        try:
            newest = _newest(folder, say, lost)
            if newest is not None:
                outcome = {name: newest[1][name] for name in ("step", "cursor", "extra", "random")}
        except ConfigError as error:
            outcome = error.message
    outcome = from_first(outcome, trainer.accelerator)
    if isinstance(outcome, str):
        raise ConfigError(outcome, param="output")
    if outcome is None:
        return None
    trainer.load_state(newest[1] if newest is not None else {"step": 0, "weights": {}, "optimizer": {}})
    rank = trainer.accelerator.process_index
    if rank < len(outcome["random"]):
        _set_random_states(outcome["random"][rank])
    target = folder / f"step-{outcome['step']:08d}"
    return Resumed(outcome["step"], outcome["cursor"], outcome["extra"], target)


def check(folder: Path, lost: str = "") -> None:
    """Check that `load` will find a checkpoint where there must be one, before models are loaded.

    Raises:
        ConfigError: as `load`.
    """
    _newest(folder, lambda line: None, lost, keep=True)


def intact(folder: Path) -> list[Path]:
    """Return the checkpoints that look whole, oldest first; their content is not read."""
    return [path for path in _numbered(folder) if not _damage(path)]


def _numbered(folder: Path) -> list[Path]:
    """Return all checkpoints, whole or not, oldest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def _newest(
    folder: Path, say: Callable[[str], None], lost: str, keep: bool = False
) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest whole checkpoint with its state; None where there is none and none was lost.

    Args:
        keep: whether damaged checkpoints keep their names.
    """
    damaged: dict[Path, str] = {}
    present = _numbered(folder)
    link = folder / "latest"
    if link.is_symlink() and not link.exists():
        target = folder / os.readlink(link)
        if _FOLDER.fullmatch(target.name) and (not present or target.name > present[-1].name):
            damaged[target] = "it is missing"
    for path in reversed(present):
        state, damage = _read(path)
        if damage:
            damaged[path] = damage
            continue
        if state["format"] != _FORMAT:
            raise ConfigError(f"output: {path} is of another version of mirl", param="output")
        for other, reason in damaged.items():
            aside = other if keep else _set_aside(other)
            say(
                f"the checkpoint {other} is damaged ({reason}): training goes on from the older one of step "
                f"{state['step']}, and makes later steps again"
                + (f"; the damaged one is now {aside.name}" if aside != other else "")
            )
        if damaged and not keep:
            _link(path)
        return path, state
    if damaged:
        path, reason = next(iter(damaged.items()))
        others = ", and no older one is whole" if len(damaged) > 1 else ""
        raise ConfigError(
            f"output: the checkpoint {path} is damaged ({reason}){others}: put a copy in its place, choose "
            "another output, or delete the run's folder to begin at step 1",
            param="output",
        )
    if lost:
        raise ConfigError(
            f"output: {folder} holds no checkpoint, and {lost}: put a copy there, choose another output, or "
            "delete the run's folder to begin at step 1",
            param="output",
        )
    return None


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Return a checkpoint's state, and how it is damaged; empty: it is whole.

    Raises:
        ConfigError: a file can't be opened, which says nothing about its content.
    """
    damage = _damage(path)
    if damage:
        return {}, damage
    try:
        state, damage = read_state(path / "state.pt", _KEYS, mmap=True)
    except OSError as error:
        raise ConfigError(f"output: {path} can't be read: {error}", param="output") from error
    if not damage and path.name != f"step-{state['step']:08d}":
        return {}, f"its state is of step {state['step']}"
    return state, damage


def _set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that later runs don't meet it again; return its new path."""
    if not path.exists():
        return path
    aside, count = path.with_name(f"damaged-{path.name}"), 2
    while aside.exists():
        aside, count = path.with_name(f"damaged-{path.name}-{count}"), count + 1
    return path.rename(aside)


def _damage(path: Path) -> str:
    """Return how a checkpoint's files are incomplete; empty: they look whole."""
    try:
        header = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        size = header["bytes"]
    except FileNotFoundError:
        return "checkpoint.json is missing"
    except (ValueError, KeyError, TypeError):
        return "checkpoint.json can't be read"
    try:
        present = (path / "state.pt").stat().st_size
    except FileNotFoundError:
        return "state.pt is missing"
    return "" if present == size else f"state.pt has {present} of {size} bytes"


def _write(target: Path, state: dict[str, Any]) -> None:
    # Fail now on values that are not plain JSON, rather than leave an unreadable checkpoint.
    json.dumps([state["cursor"], state["extra"]])
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(".*.partial"):
        shutil.rmtree(leftover)
    partial = target.parent / f".{target.name}.partial"
    partial.mkdir()
    with (partial / "state.pt").open("wb") as file:
        torch.save({**state, "format": _FORMAT}, file)
        _flush(file)
    header = {
        "step": state["step"],
        "bytes": (partial / "state.pt").stat().st_size,
        "cursor": state["cursor"],
    }
    with (partial / "checkpoint.json").open("w") as text:
        text.write(json.dumps(header, indent=2) + "\n")
        _flush(text)
    _flush_folder(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _link(target)
    _flush_folder(target.parent)


def _link(target: Path) -> None:
    """Make `latest` the link to this checkpoint."""
    link = target.parent / ".latest.partial.link"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(target.parent / "latest")


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retain(folder: Path, newest: Path, keep: int) -> None:
    """Remove the oldest checkpoints; an incomplete one doesn't count."""
    older = [path for path in intact(folder) if path != newest]
    for path in older[: max(0, len(older) - (keep - 1))]:
        shutil.rmtree(path)


def _random_states() -> dict[str, Any]:
    """Return the states of this process's random generators as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
