"""Waiting for conditions that another process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], seconds: float) -> float:
    """Poll `holds` until it returns True; return the seconds that this took.

    Raises:
        AssertionError: the condition does not hold within `seconds`.
    """
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"the condition does not hold after {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started
