"""A request's time limit: at the end of it, what runs is aborted and what finished is used.

Not `asyncio.timeout`: that cancels the task that iterates the pipeline, which may be busy with something else
between two events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class Deadline:
    """Aborts the guarded engine requests when `seconds` are over; None never ends.

    Args:
        seconds: from entering the context; None for no limit.
        abort: stops one engine request by id.
    """

    def __init__(self, seconds: float | None, abort: Callable[[str], Awaitable[None]]) -> None:
        self.seconds = seconds
        self.passed = False
        self._abort = abort
        self._guarded: set[str] = set()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self.seconds is not None:
            self._watch = asyncio.create_task(self._expire(self.seconds))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _expire(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.passed = True
        # Again and again: a request guarded a moment ago may not have reached the engine yet.
        while True:
            await asyncio.gather(*(self._abort(request_id) for request_id in self._guarded))
            await asyncio.sleep(0.05)

    @contextmanager
    def guard(self, *request_ids: str) -> Iterator[None]:
        """These engine requests are aborted at the deadline, if they still run."""
        self._guarded.update(request_ids)
        try:
            yield
        finally:
            self._guarded.difference_update(request_ids)
