"""Load on an engine over HTTP while its servers are killed, stalled and restarted in turn."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.server import Server
from mirl_core.errors import MIRLError
from tests.helpers.waiting import until

WAIT_SECONDS = 600.0


@dataclass
class Figures:
    """What became of the samples that were asked for, over all phases."""

    sent: int = 0
    answered: int = 0
    duplicated: int = 0
    wrong: int = 0
    failed: int = 0
    """Ended with an error, which the caller sees."""
    per_second: dict[str, float] = field(default_factory=dict)
    """Answers a second, by phase."""

    @property
    def lost(self) -> int:
        """Samples that neither came nor ended with an error."""
        return self.sent - self.answered - self.failed


@dataclass
class Process:
    """A server's process, which can be started again on its port."""

    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it without notice."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stall(self) -> None:
        """Hold it: the kernel still accepts its connections."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def restart(self) -> None:
        self.process = self.start()


Work = Callable[[int, Figures], Awaitable[None]]
"""(number of the request, where to count) → one request, whose answers are checked."""


@asynccontextmanager
async def under_load(work: Work, figures: Figures, workers: int) -> AsyncIterator[None]:
    """Run requests in so many workers within the block; what runs at its end is finished."""
    numbers = itertools.count()
    ending = False

    async def worker() -> None:
        while not ending:
            with suppress(MIRLError):
                await work(next(numbers), figures)

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    try:
        yield
    finally:
        ending = True
        await asyncio.gather(*tasks)


async def phase(name: str, figures: Figures, answers: int) -> None:
    """Return after so many further answers; note how fast they came."""
    before, began = figures.answered, time.monotonic()
    async with asyncio.timeout(WAIT_SECONDS):
        await until(lambda: figures.answered >= before + answers)
    figures.per_second[name] = (figures.answered - before) / (time.monotonic() - began)


async def disturb(
    engine: RemoteEngine, processes: dict[str, Process], figures: Figures, answers: int
) -> None:
    """Kill, restart and stall each server in turn, with so many answers in between."""
    await phase("before", figures, answers)
    for server in engine.servers:
        process = processes[server.url]
        process.kill()
        await phase(f"killed {server.url}", figures, answers)
        process.restart()
        await is_up(server)
        process.stall()
        await phase(f"stalled {server.url}", figures, answers)
        async with asyncio.timeout(WAIT_SECONDS):
            await until(lambda server=server: not server.up)  # type: ignore[misc]
        process.go_on()
        await is_up(server)
    picked = [server.picked for server in engine.servers]
    await phase("after", figures, answers)
    assert all(server.picked > before for server, before in zip(engine.servers, picked, strict=True)), (
        "all servers work again"
    )


async def is_up(server: Server) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await until(lambda: server.up)


def report(figures: Figures, engine: RemoteEngine) -> str:
    """Return the figures as lines."""
    moved = sum(server.counters.moved for server in engine.servers)
    stalls = sum(server.counters.stalls for server in engine.servers)
    speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in figures.per_second.items())
    return (
        f"\nsent {figures.sent}, answered {figures.answered}, moved {moved}, failed {figures.failed}, "
        f"lost {figures.lost}, duplicated {figures.duplicated}, wrong {figures.wrong}, stalls {stalls}"
        f"\nanswers a second: {speeds}"
    )


def check(figures: Figures, engine: RemoteEngine) -> None:
    """Check that nothing was lost, duplicated or wrong, and that the servers are as fast as before."""
    assert (figures.lost, figures.duplicated, figures.wrong) == (0, 0, 0)
    assert sum(server.counters.moved for server in engine.servers) > 0
    assert all(server.in_flight == 0 for server in engine.servers)
    # A shared machine is not as fast at every moment.
    assert figures.per_second["after"] > 0.3 * figures.per_second["before"]
