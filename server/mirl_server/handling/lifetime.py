"""The life of one server process: how it ends after a stop signal, or after its engine died.

From the first signal (SIGTERM, SIGINT) on the server is not ready: new and waiting requests are refused.
Running requests have `patience` seconds; then gated requests end with the best vote so far, and requests that
still run are cut. Every further signal ends the current wait. When the engine dies, all clients get an error
before the process ends.

For one event loop; independent of vLLM.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mirl_core.errors import EngineDeadError, MIRLError
from mirl_server.http.errors import draining_error
from mirl_server.settings.server import ServerSettings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Between two checks of the engine."""
VOTE_SECONDS = 2.0
"""For gated requests to end with the best vote so far."""
CUT_SECONDS = 1.0
"""For requests that were cut to send their error."""
DEAD_VISIBLE_SECONDS = 1.0
"""For health checks to see that the engine is dead, before the server ends."""
DEAD_DRAIN_SECONDS = 5.0
"""For requests whose engine died to send their error."""
ENGINE_DEAD = "the engine has stopped; the server must be restarted"


def patience(settings: ServerSettings, shutdown_timeout: float) -> float:
    """Return the seconds that running requests have after a stop signal.

    Args:
        shutdown_timeout: vLLM's `--shutdown-timeout`, the default of MIRL's setting.
    """
    return shutdown_timeout if settings.shutdown_seconds is None else settings.shutdown_seconds


class Lifetime:
    """The life of one server process.

    Args:
        patience: seconds that running requests have after a stop signal.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.draining = False
        """Whether the server got a stop signal."""
        self.cutting = False
        """Whether running requests are being cut."""
        self.died = False
        """Whether the engine died before any stop signal."""
        self.port_taken = False
        """Whether another process listens on the port that this server's socket was bound to."""
        self.closing = asyncio.Event()
        """Set: pipelines end with the best vote so far."""
        self.outlives_engine = False
        """Whether the server stays after its engine has died, and refuses all requests."""
        self.engine_dead: Callable[[], bool] = lambda: False
        self.drained: Callable[[], None] = lambda: None
        """Called at the first stop signal."""
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
        """Return the error of new requests; None: they are taken."""
        if self.draining:
            return draining_error()
        if self.engine_dead():
            return EngineDeadError(ENGINE_DEAD)
        return None

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the current task as a request in flight."""
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
        """Begin to stop; a further call ends the current wait."""
        if self.draining:
            self._hurry.set()
            logger.info("asked to stop again: not waiting any longer for %d requests", self.running)
            return
        self.draining = True
        self.drained()
        logger.info("asked to stop: %d requests run, for %g s at most", self.running, self.patience)
        self._stopping.set()

    async def over(self) -> None:
        """Wait for a stop signal or the engine's death, then for the requests in flight to end."""
        while not self.draining:
            if self.note_death() and not self.outlives_engine:
                await self._end_without_engine()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._stopping.wait()
        await self._until_idle(self.patience)
        if self._running:
            logger.warning("time is up: %d requests end with what they have", self.running)
            self.closing.set()
            await self._until_idle(VOTE_SECONDS)
        await self._cut()

    def note_death(self) -> bool:
        """Return whether the engine died before any stop signal; check it now."""
        if self.engine_dead() and not self.draining and not self.died:
            self.died = True
            logger.error("the engine died: %d requests run", self.running)
        return self.died

    async def _end_without_engine(self) -> None:
        await asyncio.sleep(DEAD_VISIBLE_SECONDS)
        await self._until_idle(DEAD_DRAIN_SECONDS)
        await self._cut()

    async def _cut(self) -> None:
        if not self._running:
            return
        logger.warning("%d requests are cut", self.running)
        self.cutting = True
        for task in self._running:
            task.cancel()
        await self._until_idle(CUT_SECONDS)

    async def _until_idle(self, seconds: float) -> None:
        """Wait until no request runs, until the next signal, or for `seconds` at most."""
        self._hurry.clear()
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self._hurry)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
