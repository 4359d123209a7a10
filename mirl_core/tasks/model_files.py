"""Fingerprints of models: whether weights, tokenizer, template or configuration have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["earlier_fingerprint", "fingerprint"]

_WHOLE = 64 * 2**20
"""Largest file, in bytes, whose whole content goes into the fingerprint."""
_BLOCK = 2**20
_BLOCKS = 64
"""Blocks of a larger file that go into the fingerprint, evenly from its first byte to its last."""
_MODEL_FILES = {".json", ".safetensors", ".bin", ".pt", ".gguf", ".jinja", ".model", ".txt", ".py"}


def fingerprint(model: str | Path) -> str:
    """Return the SHA-256 of a model's files: weights, tokenizer, template and configuration.

    Of files above 64 MiB only name, size and 64 blocks of 1 MiB enter, from end to end. `mirl.json` is left
    out: the headers compare its settings. A model that is no folder is identified by its name.
    """
    return _fingerprint(model, _BLOCKS)


def earlier_fingerprint(model: str | Path) -> str:
    """Return the fingerprint of earlier versions, in which only both ends of large files entered."""
    return _fingerprint(model, 2)


def _fingerprint(model: str | Path, blocks: int) -> str:
    folder = Path(model)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(f"name:{model}".encode())
        return digest.hexdigest()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _MODEL_FILES or path.name == "mirl.json" or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for block in range(blocks):
                file.seek((size - _BLOCK) * block // (blocks - 1), os.SEEK_SET)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
