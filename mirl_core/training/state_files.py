"""Files of `torch.save`: whole or absent when written, and checked when read.

The files are zip archives, which hold a CRC-32 of each tensor and of the pickled structure. torch checks
none of them where it maps a file into memory, so they are checked here: a changed bit is either detected or
changes nothing that is read.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError

__all__ = [
    "CHECKPOINT",
    "WEIGHTS",
    "check_writable",
    "mark_saved",
    "read_state",
    "read_whole",
    "saved_step",
    "write_state",
    "write_text",
]

CHECKPOINT = "checkpoint.pt"
"""A supervised stage's resumable state."""
WEIGHTS = "weights.pt"
"""A finished stage's averaged weights."""
_SAVED = "saved.json"
"""The step of a run's newest checkpoint: without it, a lost checkpoint looks like none."""

_DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
    # Damaged headers and pickles are reported in many ways.
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_state(path: Path, keys: tuple[str, ...] = (), *, mmap: bool = False) -> tuple[dict[str, Any], str]:
    """Return the dict in a file, on the CPU, and how the file is damaged; empty: it is whole.

    Args:
        keys: that the dict must have.
        mmap: read tensors when they are used, instead of at once.

    Raises:
        OSError: the file can't be opened or read, which says nothing about its content. A file that does not
            exist is damaged.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            # torch leaves the memory of an entry that is marked as a folder as it finds it.
            bad = bad or next((entry.filename for entry in archive.infolist() if entry.external_attr), None)
        if bad is not None:
            return {}, f"{bad} in it was changed"
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        return {}, "it is missing"
    except (OSError, *_DAMAGE) as error:
        # A changed offset seeks before the file's begin.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        return {}, f"it can't be read: {' '.join(str(error).split())[:120] or type(error).__name__}"
    if not isinstance(state, dict):
        return {}, "it holds no dict"
    missing = [key for key in keys if key not in state]
    return ({}, f"it has no {missing[0]}") if missing else (state, "")


def read_whole(path: Path, keys: tuple[str, ...], key: str, remedy: str) -> dict[str, Any]:
    """Return the dict in a file, on the CPU.

    Args:
        keys: that the dict must have.
        key: of the setting that names the file's folder.
        remedy: what a user can do where the file is damaged.

    Raises:
        ConfigError: the file is damaged, missing, or can't be read; `param` is `key`.
    """
    try:
        state, damage = read_state(path, keys)
    except OSError as error:
        raise ConfigError(f"{key}: {path} can't be read: {error}", param=key) from error
    if damage:
        raise ConfigError(f"{key}: {path} is damaged ({damage}): {remedy}", param=key)
    return state


def mark_saved(folder: Path, step: int) -> None:
    """Note in the run's folder that it has a checkpoint of this step; call it after that is written."""
    write_text(folder / _SAVED, json.dumps({"step": step}) + "\n")


def saved_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint that the run has written; None: nothing notes any.

    0 where the note itself is damaged.
    """
    try:
        return int(json.loads((folder / _SAVED).read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return 0


def check_writable(folder: Path, key: str) -> None:
    """Raise ConfigError, with the key, where the folder is a file or can't be made or written."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{key}: {folder} is a file", param=key)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {folder} can't be written", param=key)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a file for `read_state`, whole or not at all, and on the disk when this returns."""
    import torch

    spare = path.with_suffix(".new")
    with spare.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(spare, path)


def write_text(path: Path, text: str) -> None:
    """Write a file that readers see old or new, never half-written."""
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
