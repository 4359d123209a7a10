"""The one thread of a run in which torch works: collectives of all ranks must come from a single thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(thread: Executor | None, work: Callable[[], T]) -> T:
    """Run `work` beside the event loop and return its result; a cancelled caller still waits for its end.

    Args:
        thread: where `work` runs; None: in any thread of the event loop's pool.
        work: a blocking function; its exceptions are raised here.
    """
    running = asyncio.get_running_loop().run_in_executor(thread, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
