"""Checkpoints of a training run, from which it continues exactly.

    FOLDER/step-00000040/state.pt         weights, optimiser, step, random generators, cursor
    FOLDER/step-00000040/checkpoint.json  the size that state.pt must have; written last
    FOLDER/latest                         link to the newest

A checkpoint is written into a partial folder, flushed to the disk, and renamed: a folder with its final name
is whole. If a file is cut off later, the next older checkpoint is used.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mirl_core.errors import ConfigError
from mirl_core.training.rl.distributed.ranks import from_all, from_first
from mirl_core.training.rl.model.trainer import Trainer

_LOG = logging.getLogger(__name__)
_FOLDER = re.compile(r"step-(\d+)")
_FORMAT = 1


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


def load(folder: Path, trainer: Trainer) -> Resumed | None:
    """Continue from the newest intact checkpoint. Every rank calls this; the first reads.

    Restore each rank's random generators; a rank that the saved run did not have keeps its own.

    Returns:
        The checkpoint's content; None if there is no checkpoint.

    Raises:
        ConfigError: the checkpoint is of another model or of other trained parameters.
    """
    newest: tuple[Path, dict[str, Any]] | None = None
    if trainer.accelerator.is_main_process:
        newest = _newest(folder)
    header = None
    if newest is not None:
        header = {name: newest[1][name] for name in ("step", "cursor", "extra", "random")}
    header = from_first(header, trainer.accelerator)
    if header is None:
        return None
    trainer.load_state(newest[1] if newest is not None else {"step": 0, "weights": {}, "optimizer": {}})
    rank = trainer.accelerator.process_index
    if rank < len(header["random"]):
        _set_random_states(header["random"][rank])
    target = folder / f"step-{header['step']:08d}"
    return Resumed(header["step"], header["cursor"], header["extra"], target)


def intact(folder: Path) -> list[Path]:
    """Return the checkpoints that are whole, oldest first."""
    if not folder.is_dir():
        return []
    numbered = sorted(
        (int(match[1]), path) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))
    )
    return [path for _, path in numbered if _is_whole(path)]


def _newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    for path in reversed(intact(folder)):
        try:
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            _LOG.warning("%s can't be read and is passed over: %s", path, error)
            continue
        if state["format"] != _FORMAT:
            raise ConfigError(f"{path} is of another version of mirl", param="output")
        return path, state
    return None


def _is_whole(path: Path) -> bool:
    try:
        header = json.loads((path / "checkpoint.json").read_text())
        return bool((path / "state.pt").stat().st_size == header["bytes"])
    except (OSError, ValueError, KeyError):
        return False


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
    link = target.parent / ".latest.partial.link"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(target.parent / "latest")
    _flush_folder(target.parent)


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
