"""Batches of the charts stages: a function of recipe and step."""

from __future__ import annotations

from pathlib import Path

import torch

from mirl_core.training.charts.batches import draw_batch
from mirl_core.training.charts.trainer import ChartsTrainer
from tests.unit.training.charts.charts_cases import copy_tokenizer, small_recipe


def test_batches_depend_on_recipe_and_step_alone(tmp_path: Path, tokenizer_folder: Path) -> None:
    trainer = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder)))
    first, again, other = (draw_batch(trainer.recipe, trainer.tokenizer, n) for n in (3, 3, 4))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first.chunks, again.chunks, strict=True))
    assert first.pixels is not None
    assert again.pixels is not None
    assert other.pixels is not None
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
