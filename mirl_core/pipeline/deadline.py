"""A request's time limit: when it passes, running engine requests are aborted and finished samples are used.

The same happens when the server that runs the requests closes and can't wait for them.

`asyncio.timeout` doesn't serve: it cancels the task that iterates the pipeline, which may be busy with
something else between two events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from mirl_core.errors import RETRY_AFTER, DeadlineError, DrainingError, MIRLError

__all__ = ["Deadline"]
ABORT_EVERY = 0.05
"""Seconds between two aborts of what still runs after the deadline."""


class Deadline:
    """Aborts registered engine requests once `seconds` have passed or `closing` is set.

    Args:
        seconds: from entering the context; None: no limit.
        abort: stops one engine request by id.
        closing: set where all requests have to end; None: they never have to.
    """

    def __init__(
        self,
        seconds: float | None,
        abort: Callable[[str], Awaitable[None]],
        closing: asyncio.Event | None = None,
    ) -> None:
        self.seconds = seconds
        self.passed = False
        self._abort = abort
        self._closing = closing
        self._running: set[str] = set()
        self._timer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self.seconds is not None or self._closing is not None:
            self._timer = asyncio.create_task(self._expire())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)

    def error(self, when: str) -> MIRLError:
        """Return the error to raise where the deadline passed with nothing to return.

        Args:
            when: what was going on at that moment, for the message.
        """
        if self._closing is not None and self._closing.is_set():
            return DrainingError(f"the server shut down {when}; send the request again", RETRY_AFTER)
        return DeadlineError(f"mirl.timeout of {self.seconds} s passed {when}", param="mirl.timeout")

    @contextmanager
    def aborts(self, *request_ids: str) -> Iterator[None]:
        """Abort these engine requests if the deadline passes within the context."""
        self._running.update(request_ids)
        try:
            yield
        finally:
            self._running.difference_update(request_ids)

    async def _expire(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await (self._closing or asyncio.Event()).wait()
        self.passed = True
        # Repeated, because a request registered a moment ago may not have reached the engine yet.
        while True:
            await asyncio.gather(*(self._abort(request_id) for request_id in self._running))
            await asyncio.sleep(ABORT_EVERY)
