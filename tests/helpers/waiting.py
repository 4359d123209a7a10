"""Waiting for conditions instead of times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], seconds: float) -> float:
    """Poll `holds`, a condition of another process, until it returns True; return the seconds that this took.

    Raises:
        AssertionError: the condition does not hold within `seconds`.
    """
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"the condition does not hold after {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started


async def until(holds: Callable[[], bool]) -> None:
    """Return once `holds` returns True, a condition of this process that has no event."""
    while not holds():  # noqa: ASYNC110 - the condition has no event
        await asyncio.sleep(0.01)
