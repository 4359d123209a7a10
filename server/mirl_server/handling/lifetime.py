"""One server process from serving to gone: what happens when it is asked to stop, or its engine dies.

Asked to stop (SIGTERM, SIGINT) it is not ready from that moment on: new work is refused, and what waits for
its turn. What runs has `patience` seconds; then gated requests end with the best vote so far, and whatever is
left then is cut. Every further signal ends the wait that is on. When the engine dies, everybody is told
before the process ends.

For one event loop; nothing here knows vLLM.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mirl_core.errors import DrainingError, EngineDeadError, MIRLError
from mirl_server.settings.server import ServerSettings

logger = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two looks at the engine."""
CLOSING = 2.0
"""Seconds for gated requests to end with what they have."""
TELLING = 1.0
"""Seconds for requests that were cut to tell their clients."""
SHOWN = 1.0
"""Seconds for which a server with a dead engine goes on saying so, for health checks to see."""
MOURNING = 5.0
"""Seconds for requests whose engine died to tell their clients."""
RETRY_AFTER = 5.0
DEAD = "the engine has stopped; the server must be restarted"


def patience(settings: ServerSettings, shutdown_timeout: float) -> float:
    """Seconds that running requests may go on for, once the server is asked to stop.

    Args:
        shutdown_timeout: vLLM's `--shutdown-timeout`, which says the same where MIRL's setting says nothing.
    """
    return shutdown_timeout if settings.shutdown_seconds is None else settings.shutdown_seconds


class Lifetime:
    """The life of one server process.

    Args:
        patience: seconds that running requests may go on for, once the server is asked to stop.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.draining = False
        """The server was asked to stop."""
        self.cutting = False
        """Whatever still runs is being cut."""
        self.died = False
        """The engine died, and nobody had asked the server to stop."""
        self.closing = asyncio.Event()
        """Pipelines end with what they have."""
        self.outlives_engine = False
        """Whether the server stays when its engine has died, refusing everything."""
        self.engine_dead: Callable[[], bool] = lambda: False
        self.drained: Callable[[], None] = lambda: None
        """Called at the moment at which the server is asked to stop."""
        self._running: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def running(self) -> int:
        """Requests in flight."""
        return len(self._running)

    def refusal(self) -> MIRLError | None:
        """Why no new work is taken; None: it is."""
        if self.draining:
            return DrainingError("the server is shutting down; send the request again", RETRY_AFTER)
        if self.engine_dead():
            return EngineDeadError(DEAD)
        return None

    @contextmanager
    def work(self) -> Iterator[None]:
        """The current task is a request in flight."""
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._running.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    def stop(self) -> None:
        """Hear that the server shall stop; called again: faster."""
        if self.draining:
            self._hurry.set()
            logger.info("asked to stop again: not waiting any longer for %d requests", self.running)
            return
        self.draining = True
        self.drained()
        logger.info("asked to stop: %d requests run, for %g s at most", self.running, self.patience)
        self._stopping.set()

    async def over(self) -> None:
        """Wait until the server may end: it was asked to stop or its engine died, and its requests ended."""
        while not self.draining:
            if self.note_death() and not self.outlives_engine:
                await self._bury()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._stopping.wait()
        await self._until_idle(self.patience)
        if self._running:
            logger.warning("time is up: %d requests end with what they have", self.running)
            self.closing.set()
            await self._until_idle(CLOSING)
        await self._cut()

    def note_death(self) -> bool:
        """Look whether the engine has died; remembered where nobody had asked the server to stop."""
        if self.engine_dead() and not self.draining and not self.died:
            self.died = True
            logger.error("the engine died: %d requests run", self.running)
        return self.died

    async def _bury(self) -> None:
        await asyncio.sleep(SHOWN)
        await self._until_idle(MOURNING)
        await self._cut()

    async def _cut(self) -> None:
        if not self._running:
            return
        logger.warning("%d requests are cut", self.running)
        self.cutting = True
        for task in self._running:
            task.cancel()
        await self._until_idle(TELLING)

    async def _until_idle(self, seconds: float) -> None:
        """Wait until no request runs, for some seconds at most, or until the next signal."""
        self._hurry.clear()
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self._hurry)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
