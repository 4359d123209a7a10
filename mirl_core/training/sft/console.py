"""A stage on a terminal: progress bar with the time left, one thread, export at the end."""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from mirl_core.errors import TrainingError
from mirl_core.training.recipe import StageRecipe
from mirl_core.training.sft.model import export as export_model
from mirl_core.training.worlds import build_stage


def run_stage(recipe: StageRecipe, max_seconds: float | None, export: Path | None) -> bool:
    """Train the stage as far as `max_seconds` allows; return True when it is finished (and exported to
    `export`).

    Raises:
        ConfigError: see `Stage`.
        typer.Exit: the training failed; a line on standard error gives the reason.
    """
    # One thread: sums are repeatable, and two threads are slower than one on a busy two-core machine.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    stage = build_stage(recipe)
    with stage_progress() as bar:
        for note in stage.notes:
            bar.console.print(note, highlight=False, markup=False, soft_wrap=True)
        task = bar.add_task(recipe.name, total=recipe.steps, completed=stage.step, figures="")

        def show(step: int, figures: dict[str, float]) -> None:
            text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "loss")
            bar.update(task, completed=step, figures=text)

        shown = len(stage.notes)
        try:
            finished = stage.run(max_seconds, show)
        except TrainingError as error:
            typer.echo(f"mirl-train: {error.message}", err=True)
            raise typer.Exit(1) from error
        for note in stage.notes[shown:]:
            bar.console.print(note, highlight=False, markup=False, soft_wrap=True)
    if finished and export is not None:
        export_model(stage.averaged().model, stage.tokenizer, export)
    return finished


def stage_progress(console: Console | None = None) -> Progress:
    """Return the progress bar of a stage, one line wide; losses are cut at its end, the time left is not."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")),
    )
    return Progress(*columns, console=console, expand=True)
