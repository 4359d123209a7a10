"""A stage on a terminal: progress in 80 columns with the time left, and the export at the end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mirl_core.training.charts.trainer import ChartsTrainer
from mirl_core.training.sft.console import run_stage, stage_progress
from tests.unit.training.charts.charts_cases import small_recipe, write_tokenizer


@pytest.fixture
def _restored_torch() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def test_progress_is_one_line_of_80_columns_with_the_time_left() -> None:
    out = io.StringIO()
    with stage_progress(Console(file=out, width=80, force_terminal=False)) as bar:
        figures = "value_words 12.345  other_words 12.345  description 12.345  reasoning 12.345"
        bar.add_task("charts-language", total=2400, completed=1234, figures=figures)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert len(lines[0].rstrip()) <= 80
    assert lines[0].startswith("charts-language ")
    assert "1234/2400" in lines[0]
    assert "0:00:00 -:--:--" in lines[0]
    assert "value_words 12" in lines[0]


@pytest.mark.usefixtures("_restored_torch")
def test_a_charts_stage_stops_on_time_then_finishes_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChartsTrainer, "measure", lambda self: {})
    write_tokenizer(tmp_path)
    recipe, export = small_recipe(tmp_path, steps=2), tmp_path / "export"
    assert run_stage(recipe, 0.0, export) is False
    assert not export.exists()
    assert run_stage(recipe, None, export) is True
    trained = torch.load(tmp_path / "weights.pt", weights_only=True)
    exported = load_file(export / "model.safetensors")
    name = "model.text_model.norm.weight"
    assert torch.equal(exported[name], trained[f"model.{name}"].to(torch.bfloat16))
    assert run_stage(recipe, None, tmp_path / "again") is True
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        export / "model.safetensors"
    ).read_bytes()
