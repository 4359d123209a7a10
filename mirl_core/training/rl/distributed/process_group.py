"""The ranks of a run as the loop sees them: what they share out, agree on and add up beside the gradients.

Every rank samples its own share of a step's questions and takes part in every update; the first logs.
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
    """This process among those that torchrun (or whatever sets RANK and WORLD_SIZE) has started."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world
        self._group: Any = None

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """By RANK and WORLD_SIZE; one process where they are unset."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all ranks have in the same order."""
        return items[self.rank :: self.world]

    def gather(self, value: T) -> list[T]:
        """What every rank has, in their order; all ranks must call it. Blocks."""
        if self.world == 1:
            return [value]
        from torch import distributed

        if self._group is None:
            # Of its own, and gloo: objects of the CPU, whatever carries the gradients.
            self._group = distributed.new_group(backend="gloo")
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value, group=self._group)
        return found

    async def failures(self, thread: Executor, message: str | None) -> list[str]:
        """Wait in `thread` until all ranks are here; the messages of those that bring one."""
        everyone = [message]
        if self.world > 1:
            everyone = await asyncio.get_running_loop().run_in_executor(thread, self.gather, message)
        return [one for one in everyone if one is not None]

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all ranks must call it. Blocks."""
        return any(self.gather(flag))


def merged(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One line of figures from every rank's: counts are added, durations and maxima the longest, the rest is
    averaged over the ranks that have it."""
    found: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: _merge(name, values) for name, values in found.items()}


def _merge(name: str, values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    words = name.split("/")
    if words[0] in ("tokens", "groups") or words[-1] == "failed":
        return sum(values)
    if words[0] == "seconds" or "max" in words:
        return max(values)
    return sum(values) / len(values)
