"""Admission: which request runs next. Load is counted in sequences and tokens, not in requests.

- Running requests stay within the capacity; a request larger than its kind's share counts as the whole share.
- Gated and plain requests wait in separate queues. Each kind has a share of the capacity, which the other
  uses only while no request of the kind waits: neither starves the other.
- Among waiting keys, the key served least for its weight is next (start-time fair queueing); within a key,
  first come, first served. The first in the queue waits for room; no smaller request overtakes it.
- A full queue is shortened at its longest key, never at the expense of a key with fewer waiting requests.
- A request that leaves, at any moment and for any reason, frees its sequences and tokens at once.

For one event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from mirl_core.errors import BusyError
from mirl_server.access.quotas import Refused, ignore
from mirl_server.http.errors import draining_error
from mirl_server.settings.limits import AdmissionSettings

Kind = Literal["gated", "plain"]
KINDS: tuple[Kind, ...] = ("gated", "plain")
SEQUENCES = 512
UNKNOWN_WAIT = 5.0
"""Seconds to wait while no rate is known."""
LONGEST_WAIT = 60.0
"""Most seconds that a refusal asks a client to wait."""
RATE_SECONDS = 60.0
"""Seconds of service that a rate is measured over; idle seconds do not count."""


@dataclass(eq=False, slots=True)
class _Waiter:
    key: str
    sequences: int
    tokens: int
    weight: float
    turn: asyncio.Future[None]
    admitted: bool = False


@dataclass(slots=True)
class _Lane:
    """The queue and the running requests of one kind.

    `clock` and `served` are in sequences per weight: a key's share of service. `busy` is the number of
    seconds with running requests, up to the time `since`; `done` holds the value of `busy` at which sequences
    ended.
    """

    share: int
    token_share: float
    running: int = 0
    tokens: int = 0
    waiting: dict[str, deque[_Waiter]] = field(default_factory=dict)
    clock: float = 0.0
    served: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0
    since: float = 0.0
    done: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=256))

    def update_busy(self, now: float) -> float:
        """Return `busy` up to `now`, in seconds. To be called before `running` changes."""
        self.busy += now - self.since if self.running else 0.0
        self.since = now
        return self.busy

    def rate(self, now: float) -> float | None:
        """Return the recent service in sequences per second; None: not known yet."""
        busy = self.update_busy(now)
        recent = [(end, count) for end, count in self.done if busy - end <= RATE_SECONDS]
        if not recent:
            return None
        whole = len(recent) < (self.done.maxlen or 0)
        span = min(busy, RATE_SECONDS) if whole else busy - recent[0][0]
        return sum(count for _, count in recent) / max(span, 1.0)

    def count(self, sequences: int, tokens: int) -> tuple[int, int]:
        """Return a request's sequences and tokens, capped at the share so that a larger request can run."""
        return min(max(1, sequences), self.share), int(min(tokens, self.token_share))

    def first(self) -> _Waiter | None:
        """Return the next waiter."""
        if not self.waiting:
            return None
        return self.waiting[min(self.waiting, key=self.start)][0]

    def start(self, key: str) -> float:
        return max(self.clock, self.served.get(key, 0.0))

    def add(self, waiter: _Waiter) -> None:
        self.waiting.setdefault(waiter.key, deque()).append(waiter)

    def remove(self, waiter: _Waiter) -> None:
        line = self.waiting.get(waiter.key)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del self.waiting[waiter.key]

    def admit(self, waiter: _Waiter) -> None:
        start = self.start(waiter.key)
        self.remove(waiter)
        self.clock = start
        self.served[waiter.key] = start + waiter.sequences / waiter.weight
        self.running += waiter.sequences
        self.tokens += waiter.tokens
        waiter.admitted = True

    def end(self, waiter: _Waiter) -> None:
        self.running -= waiter.sequences
        self.tokens -= waiter.tokens
        if not self.running and not self.waiting:
            self.served.clear()  # no key competes: past service is no debt
        elif self.served.get(waiter.key, 0.0) <= self.clock:
            self.served.pop(waiter.key, None)

    def waiters(self) -> list[_Waiter]:
        return [waiter for line in self.waiting.values() for waiter in line]

    def length(self) -> int:
        return sum(map(len, self.waiting.values()))

    def longest(self) -> str:
        return max(self.waiting, key=lambda key: len(self.waiting[key]))


class Admission:
    """The admission of one server.

    Args:
        settings: the operator's.
        sequences: the default capacity.
        refused: called with the reason of a refusal (`queue_full`, `queue_timeout`, `draining`) and the key's
            name.
        clock: in seconds.
    """

    def __init__(
        self,
        settings: AdmissionSettings | None = None,
        sequences: int = SEQUENCES,
        refused: Refused = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or AdmissionSettings()
        self.capacity = max(2, self.settings.max_running_sequences or sequences)
        """Sequences."""
        self.refused = refused
        self._clock = clock
        self._draining = False
        self._most_tokens: float = self.settings.max_running_tokens or math.inf
        share = self.settings.plain_share
        plain = max(1, min(self.capacity - 1, round(self.capacity * share)))
        self._lanes: dict[Kind, _Lane] = {
            "gated": _Lane(self.capacity - plain, self._most_tokens * (1 - share)),
            "plain": _Lane(plain, self._most_tokens * share),
        }

    def running(self, kind: Kind) -> int:
        """Return the sequences of admitted requests."""
        return self._lanes[kind].running

    def running_tokens(self, kind: Kind) -> int:
        """Return the tokens that admitted requests may sample."""
        return self._lanes[kind].tokens

    def queued(self, kind: Kind) -> int:
        """Return the number of waiting requests."""
        return self._lanes[kind].length()

    def queued_sequences(self, kind: Kind) -> int:
        """Return the sequences of waiting requests."""
        return sum(waiter.sequences for waiter in self._lanes[kind].waiters())

    @property
    def token_capacity(self) -> float:
        """Most tokens that admitted requests may sample; infinite without a limit."""
        return self._most_tokens

    def queued_by_key(self, kind: Kind) -> dict[str, int]:
        """Return the number of waiting requests by key name."""
        return {key: len(line) for key, line in self._lanes[kind].waiting.items()}

    def has_room(self, sequences: int, tokens: int, kind: Kind) -> bool:
        """Return whether a request would be admitted without a wait."""
        lane = self._lanes[kind]
        if lane.waiting or self._draining:
            return False
        turn = asyncio.get_running_loop().create_future()
        return self._fits(lane, _Waiter("", *lane.count(sequences, tokens), 1.0, turn))

    def check_queue(self, key: str, kind: Kind) -> None:
        """Refuse a request before its images are decoded, where `admit` would refuse it.

        Raises:
            BusyError: the queue is full, and no other key has more waiting requests.
        """
        lane = self._lanes[kind]
        if not lane.waiting or lane.length() < self.settings.max_queue:
            return
        if len(lane.waiting.get(key, ())) >= len(lane.waiting[lane.longest()]):
            self.refused("queue_full", key)
            raise _full(self._wait(lane, key, 1))

    def drain(self) -> None:
        """Refuse waiting and new requests; running requests go on."""
        self._draining = True
        for lane in self._lanes.values():
            for waiter in lane.waiters():
                lane.remove(waiter)
                self._refuse(waiter, "draining", draining_error())

    @asynccontextmanager
    async def admit(
        self,
        key: str,
        sequences: int,
        tokens: int = 0,
        deadline: float | None = None,
        *,
        kind: Kind = "gated",
        weight: float = 1.0,
    ) -> AsyncIterator[float]:
        """Wait for a turn and hold it to the end of the context; yield the wait in seconds.

        Args:
            key: the name of the request's key.
            sequences: the sequences that the request samples.
            tokens: the most tokens that it samples.
            deadline: most seconds to wait, where fewer than the operator's.
            weight: the key's share beside other keys.

        Raises:
            BusyError: the queue is full, or the wait was too long; `retry_after` says when to try again.
            DrainingError: the server is shutting down.
        """
        lane = self._lanes[kind]
        turn = asyncio.get_running_loop().create_future()
        waiter = _Waiter(key, *lane.count(sequences, tokens), weight, turn)
        began = self._clock()
        self._enter(lane, waiter)
        try:
            await self._turn(lane, waiter, deadline)
            yield self._clock() - began
        finally:
            self._leave(lane, waiter)

    def _enter(self, lane: _Lane, waiter: _Waiter) -> None:
        if self._draining:
            self.refused("draining", waiter.key)
            raise draining_error()
        lane.add(waiter)
        self._fill()
        if waiter.admitted or lane.length() <= self.settings.max_queue:
            return
        longest = lane.longest()
        fewer = len(lane.waiting[waiter.key]) < len(lane.waiting[longest])
        loser = lane.waiting[longest][-1] if fewer else waiter
        lane.remove(loser)
        self._refuse(loser, "queue_full", _full(self._wait(lane, loser.key, loser.sequences)))

    async def _turn(self, lane: _Lane, waiter: _Waiter, deadline: float | None) -> None:
        most = self.settings.queue_seconds
        try:
            async with asyncio.timeout(most if deadline is None else min(most, deadline)):
                await waiter.turn
        except TimeoutError:
            if waiter.admitted:  # in the same moment
                return
            wait = self._wait(lane, waiter.key, waiter.sequences)
            self.refused("queue_timeout", waiter.key)
            raise BusyError(f"there was no room in time; try again in {wait:.0f} s", wait) from None

    def _leave(self, lane: _Lane, waiter: _Waiter) -> None:
        if waiter.admitted:
            lane.done.append((lane.update_busy(self._clock()), waiter.sequences))
            lane.end(waiter)
        else:
            lane.remove(waiter)
        self._fill()

    def _fill(self) -> None:
        """Admit the requests that there is room for, from the kind that uses less of its share first."""
        progress = True
        while progress:
            progress = False
            for kind in sorted(KINDS, key=lambda kind: self._lanes[kind].running / self._lanes[kind].share):
                lane = self._lanes[kind]
                waiter = lane.first()
                if waiter is None:
                    continue
                if waiter.turn.done():  # cancelled, and its task has not run since
                    lane.remove(waiter)
                    progress = True
                elif self._fits(lane, waiter):
                    lane.update_busy(self._clock())
                    lane.admit(waiter)
                    waiter.turn.set_result(None)
                    progress = True
                if progress:
                    break

    def _fits(self, lane: _Lane, waiter: _Waiter) -> bool:
        sequences, tokens = waiter.sequences, waiter.tokens
        if sum(other.running for other in self._lanes.values()) + sequences > self.capacity:
            return False
        if sum(other.tokens for other in self._lanes.values()) + tokens > self._most_tokens:
            return False
        if lane.running + sequences <= lane.share and lane.tokens + tokens <= lane.token_share:
            return True
        return not any(other.waiting for other in self._lanes.values() if other is not lane)

    def _wait(self, lane: _Lane, key: str, sequences: int) -> float:
        """Return the seconds until a request of this size could have its turn, at the recent rate."""
        rate = lane.rate(self._clock())
        if rate is None:
            return UNKNOWN_WAIT
        own = sum(waiter.sequences for waiter in lane.waiting.get(key, ()))
        everyone = sum(waiter.sequences for waiter in lane.waiters())
        holders = len({*lane.waiting, key})
        # A key's requests move at the key's share of the rate, and none waits for more than the whole queue.
        ahead = min(everyone, own * holders) + sequences
        return min(max(1.0, ahead / rate), LONGEST_WAIT)

    def _refuse(self, waiter: _Waiter, reason: str, error: BusyError) -> None:
        self.refused(reason, waiter.key)
        if not waiter.turn.done():
            waiter.turn.set_exception(error)


def _full(wait: float) -> BusyError:
    return BusyError(f"too many requests are waiting; try again in {wait:.0f} s", wait)
