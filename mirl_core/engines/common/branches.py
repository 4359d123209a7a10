"""The branches of one `generate` call: a task each, and none of them outlives the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from mirl_core.engines.base import Sample
from mirl_core.engines.common.concurrency import cancel_and_wait
from mirl_core.errors import EngineError

__all__ = ["Branches", "registered"]

T = TypeVar("T")


class Branches:
    """Runs `n` branches as tasks within an `async with` block, at whose end the unfinished are cancelled.

    Args:
        sample: samples the branch of that index.
        n: how many branches there are.
    """

    def __init__(self, sample: Callable[[int], Coroutine[Any, Any, Sample]], n: int) -> None:
        self.tasks = [asyncio.create_task(sample(index)) for index in range(n)]
        self._ended: asyncio.Queue[asyncio.Task[Sample]] = asyncio.Queue()
        for task in self.tasks:
            task.add_done_callback(self._ended.put_nowait)

    async def next_sample(self) -> Sample:
        """Return the sample of the branch that ends next, or raise its error."""
        return (await self._ended.get()).result()

    async def __aenter__(self) -> Branches:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel_and_wait(self.tasks)


@contextmanager
def registered(calls: dict[str, T], request_id: str, call: T) -> Iterator[T]:
    """Keep a call in `calls` under its request id for as long as the block runs.

    Raises:
        EngineError: a call with that request id is running already.
    """
    if request_id in calls:
        raise EngineError(f"request id {request_id!r} is running already")
    calls[request_id] = call
    try:
        yield call
    finally:
        del calls[request_id]
