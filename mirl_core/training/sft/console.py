"""A stage on a terminal: progress bar with the time left, one thread, export at the end."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mirl_core.training.recipe import Recipe
from mirl_core.training.sft.model import export as export_model
from mirl_core.training.sft.trainer import Trainer


def run_stage(recipe: Recipe, max_seconds: float | None, export: Path | None) -> bool:
    """Train the stage as far as `max_seconds` allows; return True when it is finished (and exported to
    `export`)."""
    # One thread: sums are repeatable, and two threads are slower than one on a busy two-core machine.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    trainer = Trainer(recipe)
    columns = (
        TextColumn(recipe.stage),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(recipe.stage, total=recipe.steps, completed=trainer.step, figures="")

        def show(step: int, figures: dict[str, float]) -> None:
            text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "loss")
            bar.update(task, completed=step, figures=text)

        finished = trainer.run(max_seconds, show)
    if finished and export is not None:
        export_model(trainer.averaged().model, trainer.tokenizer, export)
    return finished
