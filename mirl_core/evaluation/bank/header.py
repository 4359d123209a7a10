"""Headers of stores: the conditions under which records are made, compared with those of the present run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.identity import pictures_digest
from mirl_core.tasks.model_files import earlier_fingerprint

__all__ = ["check_header", "references_of"]

_SINCE = {
    "references": "reference pictures",
    "max_tokens": "longest trajectory",
}
"""Entries that headers of earlier versions lack, and their names in messages."""


def check_header(
    folder: Path,
    written: Mapping[str, Any],
    requested: Mapping[str, Any],
    held: Sequence[str],
    model: str | Path | None,
) -> tuple[str, ...]:
    """Return lines on what a written header of an earlier version leaves open.

    Raises:
        ConfigError: an entry in `held` differs; `param` is its name.
    """
    notes = []
    for name in held:
        if name == "model" and model is not None and written.get(name) != requested.get(name):
            if written.get(name) != earlier_fingerprint(model):
                _compare(folder, name, written.get(name), requested.get(name))
            notes.append(
                f"{folder} is of an earlier version, which noted only both ends of the model's large files: "
                "the model is NOT checked in full"
            )
        elif name in _SINCE and name not in written:
            if requested.get(name) is not None:
                notes.append(f"{folder} is of an earlier version, which noted no {_SINCE[name]}: NOT checked")
        else:
            _compare(folder, name, written.get(name), requested.get(name))
    return tuple(notes)


def references_of(settings: ModelSettings, needed: bool) -> str | None:
    """Return the digest of the model's reference pictures; None where none are used, or a world draws them.

    Raises:
        ConfigError: a picture can't be read.
    """
    return pictures_digest(settings.reference_images) if needed and settings.reference_images else None


def _compare(folder: Path, name: str, written: object, requested: object) -> None:
    """Raise ConfigError with the first entry in which two headers differ."""
    if isinstance(written, dict) and isinstance(requested, dict):
        for key in sorted({*written, *requested}):
            _compare(folder, f"{name}.{key}", written.get(key), requested.get(key))
    elif written != requested:
        difference = (
            f"another {'model' if name == 'model' else 'set of reference pictures'}"
            if name in ("model", "references")
            else f"{name} {_short(written)}, and this run has {_short(requested)}"
        )
        raise ConfigError(
            f"{folder} was filled with {difference}; give the run another output folder, or delete this one",
            param=name,
        )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
