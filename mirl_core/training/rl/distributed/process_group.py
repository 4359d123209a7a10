"""The ranks of a run as the loop uses them: sharing of questions, gathering of values, merging of metrics.

Every rank samples its share of a step's questions and takes part in every update; the first rank logs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

__all__ = ["ProcessGroup", "merged"]

T = TypeVar("T")


class ProcessGroup:
    """This process's rank among those of torchrun, or of a launcher that sets RANK and WORLD_SIZE."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world
        self._group: Any = None

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Read RANK and WORLD_SIZE; where they are unset there is one process."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of a sequence that all ranks have in the same order."""
        return items[self.rank :: self.world]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks. Blocks; all ranks must call it."""
        if self.world == 1:
            return [value]
        from torch import distributed

        if self._group is None:
            # A separate group on gloo: the values are CPU objects, whatever backend carries the gradients.
            self._group = distributed.new_group(backend="gloo")
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self._group)
        return values

    async def failures(self, thread: Executor, message: str | None) -> list[str]:
        """Wait in `thread` until all ranks are here; return the messages of the ranks that failed."""
        messages = [message]
        if self.world > 1:
            messages = await asyncio.get_running_loop().run_in_executor(thread, self.gather, message)
        return [reported for reported in messages if reported is not None]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank. Blocks; all ranks must call it."""
        return any(self.gather(flag))


def merged(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Merge every rank's metrics: counts are summed, durations and maxima are the largest, the rest is the
    mean over the ranks that have it."""
    by_name: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            by_name.setdefault(name, []).append(value)
    return {name: _merge(name, values) for name, values in by_name.items()}


def _merge(name: str, values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    words = name.split("/")
    if words[0] in ("tokens", "groups") or words[-1] == "failed":
        return sum(values)
    if words[0] == "seconds" or "max" in words:
        return max(values)
    return sum(values) / len(values)
