"""A run on a terminal: progress bar with the time left and the main figures; plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Board"]

_MAIN = {
    "reward/answer": "answers",
    "reward/description": "descriptions",
    "kl": "kl",
    "mismatch/mean": "mismatch",
    "grad_norm": "gradient",
}


class Board:
    """Display of a run of `steps` steps on standard error.

    Args:
        name: shown before the bar.
        quiet: show nothing; for all ranks but the first.
    """

    def __init__(self, name: str, steps: int, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._steps = steps
        self._bar = Progress(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            # Steps differ in length: averaging over a longer period makes the time left steadier.
            speed_estimate_period=300,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=steps, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, step: int) -> None:
        """Continue the display from `step`."""
        self._bar.reset(self._task, completed=step, figures="")

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        """Show a step's figures, or a dev evaluation's."""
        dev_figures = {
            name.removeprefix("look/"): value for name, value in figures.items() if name.startswith("look/")
        }
        if dev_figures:
            text = "  ".join(f"{name} {100 * value:.1f}%" for name, value in dev_figures.items())
            self._console.print(f"step {step}: {text}", highlight=False, markup=False, soft_wrap=True)
            return
        main = {label: figures[name] for name, label in _MAIN.items() if figures.get(name)}
        text = "  ".join(f"{name} {value:.3g}" for name, value in main.items())
        if self._bar.disable:
            seconds = figures.get("seconds/step", 0.0)
            line = f"step {step}/{self._steps}  {seconds:.1f} s  {text}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            self._bar.update(self._task, completed=step, figures=text)
