"""Quotas: each key's requests and generated tokens in the current minute, and its running requests.

The windows are those of the `limits` library in memory, so each API server process counts for itself.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from mirl_core.errors import RateLimitError
from mirl_server.settings.limits import KeyLimits

Refused = Callable[[str, str], None]
"""A callback for refusals: the reason (from a fixed list) and the key's name."""

# Quotes inside a JSON string are escaped, so this pattern can't match inside one.
_USAGE = re.compile(rb'"(?:completion_tokens|output_tokens)"\s*:\s*(\d{1,12})')
_LONGEST_USAGE = 64


def ignore(reason: str, key: str) -> None:
    """Do nothing about a refusal."""


class Quotas:
    """The use of each key's limits.

    Args:
        window: length of a "minute" in seconds.
        refused: called for each refusal, with `concurrency`, `requests` or `tokens` as its reason.
    """

    def __init__(self, window: int = 60, refused: Refused = ignore) -> None:
        self._window = window
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self.running: Counter[str] = Counter()
        """Running requests by key name."""
        self.refused = refused

    @asynccontextmanager
    async def use(self, name: str, limits: KeyLimits) -> AsyncIterator[None]:
        """Count a request as running until the context ends.

        Raises:
            RateLimitError: the key has used up one of its limits.
        """
        if limits.concurrent is not None and self.running[name] >= limits.concurrent:
            raise self._refusal("concurrency", name, f"{limits.concurrent} requests at the same time", 1)
        # Counted before the first await, so that of two concurrent requests only one takes the last slot.
        self.running[name] += 1
        try:
            await self._check_windows(name, limits)
            yield
        finally:
            self.running[name] -= 1
            if not self.running[name]:
                del self.running[name]

    async def _check_windows(self, name: str, limits: KeyLimits) -> None:
        tokens = self._item(limits.tokens_per_minute)
        if tokens is not None and not await self._limiter.test(tokens, name, "tokens"):
            wait = await self._reset(tokens, name, "tokens")
            raise self._refusal("tokens", name, f"{limits.tokens_per_minute} tokens per minute", wait)
        requests = self._item(limits.requests_per_minute)
        if requests is not None and not await self._limiter.hit(requests, name, "requests"):
            wait = await self._reset(requests, name, "requests")
            raise self._refusal("requests", name, f"{limits.requests_per_minute} requests per minute", wait)

    async def charge(self, name: str, limits: KeyLimits, tokens: int) -> None:
        """Count generated tokens, those over the limit too."""
        item = self._item(limits.tokens_per_minute)
        if item is not None and tokens > 0:
            await self._limiter.hit(item, name, "tokens", cost=tokens)

    async def headers(self, name: str, limits: KeyLimits) -> list[tuple[bytes, bytes]]:
        """Return OpenAI's `x-ratelimit-*` headers for the key's limits."""
        headers = []
        for kind, limit in (("requests", limits.requests_per_minute), ("tokens", limits.tokens_per_minute)):
            item = self._item(limit)
            if item is None:
                continue
            stats = await self._limiter.get_window_stats(item, name, kind)
            wait = max(0.0, stats.reset_time - time.time())
            for field, value in (
                ("limit", str(limit)),
                ("remaining", str(stats.remaining)),
                ("reset", f"{wait:.3f}s"),
            ):
                headers.append((f"x-ratelimit-{field}-{kind}".encode(), value.encode()))
        return headers

    def _item(self, amount: int | None) -> RateLimitItem | None:
        return None if amount is None else RateLimitItemPerSecond(amount, self._window)

    async def _reset(self, item: RateLimitItem, name: str, kind: str) -> float:
        stats = await self._limiter.get_window_stats(item, name, kind)
        return max(0.0, stats.reset_time - time.time())

    def _refusal(self, reason: str, name: str, limit: str, wait: float) -> RateLimitError:
        self.refused(reason, name)
        return RateLimitError(f"this API key may use {limit}; try again in {max(1, round(wait))} s", wait)


class TokenMeter:
    """Counts the generated tokens of a response while it passes.

    The count is the response's own usage; for a stream without usage the number of its events, which is at
    most the number of its tokens.
    """

    def __init__(self) -> None:
        self._reported = 0
        self._events = 0
        self._tail = b""

    def feed(self, body: bytes) -> None:
        """Read the next bytes of the response."""
        text = self._tail + body
        for match in _USAGE.finditer(text):
            self._reported = max(self._reported, int(match[1]))
        self._events += body.count(b"data: {")
        self._tail = text[-_LONGEST_USAGE:]

    @property
    def tokens(self) -> int:
        """Generated tokens so far."""
        return self._reported or self._events
