"""A run on a terminal: a progress bar with the time left, and the main figures below it, each in a line of 80
columns; plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

__all__ = ["Board"]

_MAIN = {
    "reward/answer": "answers",
    "reward/description": "descriptions",
    "kl": "kl",
    "mismatch/mean": "mismatch",
    "grad_norm": "gradient",
}


class _TwoLines(Progress):
    """A bar with its task's figures in a line below, cut where the terminal ends."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, then the figures."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["figures"]:
                yield Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


class Board:
    """Display of a run of `steps` steps on standard error.

    Args:
        name: shown before the bar.
        quiet: show nothing; for all ranks but the first.
        console: None: standard error.
    """

    def __init__(self, name: str, steps: int, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, quiet=quiet)
        self._steps = steps
        self._bar = _TwoLines(
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", max_width=24),
            ),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            # Steps differ in length: averaging over a longer period makes the time left steadier.
            speed_estimate_period=300,
            disable=quiet or not self._console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task(name, total=steps, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, step: int) -> None:
        """Continue the display from `step`."""
        self._bar.reset(self._task, completed=step, figures="")

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        """Show a step's figures, or a dev evaluation's."""
        by_set: dict[str, list[str]] = {}
        for name, value in figures.items():
            if name.startswith("look/"):
                data, _, figure = name.removeprefix("look/").rpartition("/")
                by_set.setdefault(data, []).append(f"{figure} {100 * value:.1f}%")
        if by_set:
            for data, texts in by_set.items():
                self.say(f"step {step}: {data}: {'  '.join(texts)}")
            return
        main = {label: figures[name] for name, label in _MAIN.items() if figures.get(name)}
        text = "  ".join(f"{name} {value:.3g}" for name, value in main.items())
        if self._bar.disable:
            seconds = figures.get("seconds/step", 0.0)
            line = f"step {step}/{self._steps}  {seconds:.1f} s  {text}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            self._bar.update(self._task, completed=step, figures=text)
