"""The end of a server process after a stop signal or its engine's death, in the order of its `Lifetime`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirl_server.handling.lifetime import Lifetime

if TYPE_CHECKING:
    from uvicorn import Server

LINGER = 2
"""Seconds for clients to read the rest of their connections' buffers, once nothing runs."""
LISTEN_POLL_SECONDS = 0.05


@asynccontextmanager
async def stopping(life: Lifetime, server: Server) -> AsyncIterator[None]:
    """Take over SIGINT and SIGTERM, and end the server once its life is over."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, life.stop)

    async def end() -> None:
        await life.over()
        # The connections that are left are idle, or their clients don't read.
        server.config.timeout_graceful_shutdown = LINGER
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        yield
    finally:
        life.note_death()
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def until_listening(server: Server) -> None:
    """Return once the server listens."""
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(LISTEN_POLL_SECONDS)
