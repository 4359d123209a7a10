"""Admission by itself with a crowd of requests, and routes under admission."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mirl_server.handling.admission import KINDS, Admission, Kind
from mirl_server.settings.limits import AdmissionSettings
from tests.unit.server.harness import Harness


def admitted(harness: Harness, **how: Any) -> Admission:
    """Put a harness under admission with these settings; return the admission."""
    admission = Admission(AdmissionSettings(**how))
    harness.service = harness.app.state.mirl = dataclasses.replace(
        harness.app.state.mirl, admission=admission
    )
    return admission


def idle(admission: Admission) -> bool:
    """Return whether nothing runs, nothing waits and no tokens are held."""
    return not any(
        admission.running(kind) or admission.running_tokens(kind) or admission.queued(kind) for kind in KINDS
    )


def make(capacity: int = 10, now: list[float] | None = None, **how: Any) -> Admission:
    """Return an admission of so many sequences, with a clock that the test sets."""
    clock = {} if now is None else {"clock": lambda: now[0]}
    return Admission(AdmissionSettings(max_running_sequences=capacity, **how), **clock)  # type: ignore[arg-type]


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Requests that run until the test ends them: of two sequences each, so that `make(3)` runs one."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.started: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def _run(self, name: str, key: str, sequences: int, kind: Kind, how: dict[str, Any]) -> None:
        async with self.admission.admit(key, sequences, kind=kind, **how):
            self.started.append(name)
            await self._ends[name].wait()

    async def ask(
        self, name: str, key: str = "a", sequences: int = 2, kind: Kind = "gated", **how: Any
    ) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        task = asyncio.create_task(self._run(name, key, sequences, kind, how))
        self.tasks.append(task)
        await settle()
        return task

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await settle()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def crowd(admission: Admission) -> AsyncIterator[Crowd]:
    """Yield a crowd; cancel what the test left running, after which nothing may be held."""
    made = Crowd(admission)
    try:
        yield made
    finally:
        await made.close()
    assert idle(admission)
