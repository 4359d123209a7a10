"""A request's time limit: at the end of it, what runs is aborted and what finished is used.

So too when whoever runs the requests closes, and can't wait for them.

Not `asyncio.timeout`: that cancels the task that iterates the pipeline, which may be busy with something else
between two events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from mirl_core.errors import DeadlineError, DrainingError, MIRLError

RETRY_AFTER = 5.0
"""Seconds after which a request may be sent again that a closing server cut short."""


class Deadline:
    """Aborts the guarded engine requests when `seconds` are over, or `closing` is set.

    Args:
        seconds: from entering the context; None for no limit.
        abort: stops one engine request by id.
        closing: ends every request that it is given to; None: nothing does.
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
        self._guarded: set[str] = set()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self.seconds is not None or self._closing is not None:
            self._watch = asyncio.create_task(self._expire())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def error(self, when: str) -> MIRLError:
        """What to raise where it passed with nothing to return.

        Args:
            when: what went on at that moment, for the message.
        """
        if self._closing is not None and self._closing.is_set():
            return DrainingError(f"the server shut down {when}; send the request again", RETRY_AFTER)
        return DeadlineError(f"mirl.timeout of {self.seconds} s passed {when}", param="mirl.timeout")

    async def _expire(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await (self._closing or asyncio.Event()).wait()
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
