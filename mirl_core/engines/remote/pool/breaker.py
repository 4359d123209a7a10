"""A circuit breaker: it keeps requests from a server that fails, and lets single probes find its recovery."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts a server's consecutive failures. Open, it allows one probe after a wait that doubles each time.

    The wait starts anew only after real work has succeeded: a server that passes its probe and then fails
    again waits longer and longer.

    Args:
        threshold: how many consecutive failures open it.
        first: first wait before a probe; seconds.
        longest: longest wait; seconds.
        jitter: share of a wait by which it is drawn longer or shorter, so that gateways don't probe in step.
        draw: returns a number from 0 to 1.
    """

    def __init__(
        self,
        threshold: int = 3,
        *,
        first: float = 1.0,
        longest: float = 30.0,
        jitter: float = 0.3,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._threshold = threshold
        self._first, self._longest, self._jitter = first, longest, jitter
        self._draw = draw
        self._openings = 0
        self.state: BreakerState = "closed"
        self.failures = 0
        """Consecutive failures."""
        self.retry_at = -math.inf
        """Time of the next probe, on the clock of `now` arguments; seconds."""

    def success(self) -> None:
        """Count a request that the server answered."""
        self.failures = 0
        if self.state == "closed":
            self._openings = 0

    def failure(self, now: float) -> bool:
        """Count a failed request; return whether this opened the breaker."""
        self.failures += 1
        if self.state != "closed" or self.failures < self._threshold:
            return False
        self.open(now)
        return True

    def open(self, now: float) -> None:
        """Open it, or open it again after a failed probe; the next probe comes after a longer wait."""
        wait = min(self._longest, self._first * 2.0 ** min(self._openings, 30))
        self._openings += 1
        self.state = "open"
        self.retry_at = now + wait * (1.0 + self._jitter * (2.0 * self._draw() - 1.0))

    def due(self, now: float) -> bool:
        """Return whether a probe may be sent now."""
        return self.state == "open" and now >= self.retry_at

    def begin_probe(self) -> None:
        """Note that a probe is on its way: no second one is due until it ends in `open` or `close`."""
        self.state = "half-open"

    def close(self) -> None:
        """Close it after a probe that succeeded."""
        self.state = "closed"
        self.failures = 0
