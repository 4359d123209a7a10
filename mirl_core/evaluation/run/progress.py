"""Progress bars with the time left, on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Bar", "Bars"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar."""

    progress: Progress
    task: TaskID

    def at(self, done: int, total: int) -> None:
        """Show that `done` of `total` are finished."""
        self.progress.update(self.task, completed=done, total=total)

    def step(self) -> None:
        """Show that one more is finished."""
        self.progress.advance(self.task)


class Bars:
    """Several bars, one below the other."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            # Questions in flight finish in bursts: a longer period makes the time left steadier.
            speed_estimate_period=300,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """Print a line on a terminal only: elsewhere bad input, which may follow, is one line."""
        if self._progress.console.is_terminal:
            self.say(text)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say that something begins whose length is not known, and how long it took; a bar runs meanwhile."""
        self.say(f"{text} …")
        began = time.monotonic()
        task = self._progress.add_task(text, total=None)
        try:
            yield
        finally:
            self._progress.remove_task(task)
        self.say(f"{text}: done in {time.monotonic() - began:.0f} s")

    @contextmanager
    def bar(self, text: str, total: int, missing: int | None = None) -> Iterator[Bar]:
        """Show a bar of `total`, of which all but `missing` are done; it is full once its block has ended."""
        done = 0 if missing is None else total - missing
        task = self._progress.add_task(text, total=total, completed=done)
        yield Bar(self._progress, task)
        self._progress.update(task, completed=self._progress.tasks[self._progress.task_ids.index(task)].total)
