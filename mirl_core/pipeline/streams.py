"""Several async generators merged into one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merge(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield (source index, item) as items arrive.

    The first source that raises ends the merge with its exception. Every source is closed before this
    generator ends, however it ends: nothing runs on unnoticed.
    """
    queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()

    async def pump(index: int, source: AsyncGenerator[T, None]) -> None:
        async with aclosing(source):
            async for item in source:
                queue.put_nowait((index, item))

    tasks = [asyncio.create_task(pump(index, source)) for index, source in enumerate(sources)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    running = len(tasks)
    try:
        while running:
            entry = await queue.get()
            if isinstance(entry, asyncio.Task):
                entry.result()
                running -= 1
            else:
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
