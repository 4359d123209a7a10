"""Hugging Face data sets as files: small ones of the published shape, read from a folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from PIL import Image

Row = dict[str, Any]
RED, BLUE = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (5, 3), "blue")


def go_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, and a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def features(kinds: dict[str, Any]) -> datasets.Features:
    short = {"text": datasets.Value("string"), "image": datasets.Image(), "int": datasets.Value("int64")}
    return datasets.Features(
        {name: short[kind] if isinstance(kind, str) else kind for name, kind in kinds.items()}
    )


def store(folder: Path, split: str, rows: list[Row], kinds: dict[str, Any], config: str = "data") -> None:
    """Parquet files as the hub has them, with the configurations in the folder's card."""
    (folder / config).mkdir(parents=True, exist_ok=True)
    rows = [{name: row.get(name) for name in kinds} for row in rows]
    datasets.Dataset.from_list(rows, features=features(kinds)).to_parquet(
        folder / config / f"{split}-00000-of-00001.parquet"
    )
    configs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    card = ["---", "configs:"]
    for name in configs:
        card += [f"- config_name: {'default' if name == 'data' else name}", "  data_files:"]
        for file in sorted((folder / name).iterdir()):
            card += [f"  - split: {file.name.split('-')[0]}", f"    path: {name}/{file.name}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def colour(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
