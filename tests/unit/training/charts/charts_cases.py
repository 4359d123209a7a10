"""A small stage of the charts model, and folders for it."""

from __future__ import annotations

from pathlib import Path

from mirl_core.training.charts import rows
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.sft import text


def small_recipe(folder: Path, **changes: object) -> ChartsRecipe:
    base = {"steps": 4, "output": folder, "images": 2, "rows_per_image": 2, "text_rows": 3, "pool": 20}
    return ChartsRecipe.model_validate({**base, "warmup": 1, "dev_every": 100, "word_weight": 0.5, **changes})


def write_tokenizer(folder: Path) -> None:
    text.build_tokenizer(rows.corpus(300), 704, digits=2).save(str(folder / "tokenizer.json"))


def copy_tokenizer(tmp_path: Path, name: str, tokenizer_folder: Path) -> Path:
    """Make a folder for a stage, with its tokenizer."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    return folder
