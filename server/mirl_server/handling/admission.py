"""Which request goes on now: work is counted in sequences and tokens, not in requests.

- What runs stays within the capacity; a request larger than its kind's share counts as all of that.
- Gated and plain requests wait apart. Each has a share that the other takes only while nobody waits for it,
  so neither starves the other.
- Among the keys that wait, the one served least for its weight is next (start-time fair queueing); within one
  key, first come, first served. The first in line waits for room; nobody smaller overtakes it.
- A full line is shortened at its longest key, never at the expense of a key that waits for less.
- Whoever leaves, at any moment and for any reason, frees at once what it held.

For one event loop; nothing here is a thread's business.
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

from mirl_core.errors import BusyError, DrainingError
from mirl_server.access.quotas import Refused, ignore
from mirl_server.settings.limits import AdmissionSettings

Kind = Literal["gated", "plain"]
KINDS: tuple[Kind, ...] = ("gated", "plain")
SEQUENCES = 512
UNKNOWN_WAIT = 5.0
LONGEST_WAIT = 60.0
MEMORY = 60.0
"""Seconds of service that a rate is taken from; those in which nothing ran are not counted."""


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
    """Requests of one kind. `clock` and `served` are in sequences per weight: a key's share of service.

    `busy` are the seconds in which something ran, up to `since`; by them `done` tells when sequences ended.
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

    def look(self, now: float) -> float:
        """Seconds in which something ran, up to now. Due before `running` changes."""
        self.busy += now - self.since if self.running else 0.0
        self.since = now
        return self.busy

    def rate(self, now: float) -> float | None:
        """Sequences per second that were served of late; None: not known yet."""
        busy = self.look(now)
        recent = [(when, count) for when, count in self.done if busy - when <= MEMORY]
        if not recent:
            return None
        whole = len(recent) < (self.done.maxlen or 0)
        span = min(busy, MEMORY) if whole else busy - recent[0][0]
        return sum(count for _, count in recent) / max(span, 1.0)

    def count(self, sequences: int, tokens: int) -> tuple[int, int]:
        """What a request counts for: one that is larger than the share must be able to run, too."""
        return min(max(1, sequences), self.share), int(min(tokens, self.token_share))

    def first(self) -> _Waiter | None:
        """Whose turn it is."""
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
            self.served.clear()  # nobody competes: what was served so far is no one's debt
        elif self.served.get(waiter.key, 0.0) <= self.clock:
            self.served.pop(waiter.key, None)

    def length(self) -> int:
        return sum(map(len, self.waiting.values()))

    def longest(self) -> str:
        return max(self.waiting, key=lambda key: len(self.waiting[key]))


class Admission:
    """The admission of one server.

    Args:
        settings: the operator's.
        sequences: the capacity where the operator gave none.
        refused: hears of refusals: `queue_full`, `queue_timeout` or `draining`, and the key's name.
        clock: seconds.
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
        """Sequences of admitted requests."""
        return self._lanes[kind].running

    def running_tokens(self, kind: Kind) -> int:
        """Tokens that admitted requests may sample."""
        return self._lanes[kind].tokens

    def queued(self, kind: Kind) -> int:
        """Requests that wait."""
        return self._lanes[kind].length()

    def queued_sequences(self, kind: Kind) -> int:
        """Sequences of the requests that wait."""
        return sum(one.sequences for line in self._lanes[kind].waiting.values() for one in line)

    @property
    def token_capacity(self) -> float:
        """Most tokens that admitted requests may sample; infinite without a limit."""
        return self._most_tokens

    def queued_by_key(self, kind: Kind) -> dict[str, int]:
        """Requests that wait, by key name."""
        return {key: len(line) for key, line in self._lanes[kind].waiting.items()}

    def has_room(self, sequences: int, tokens: int, kind: Kind) -> bool:
        """Whether a request would be admitted without waiting."""
        lane = self._lanes[kind]
        if lane.waiting or self._draining:
            return False
        turn = asyncio.get_running_loop().create_future()
        return self._fits(lane, _Waiter("", *lane.count(sequences, tokens), 1.0, turn))

    def check_queue(self, key: str, kind: Kind) -> None:
        """Refuse now what would be refused on arrival: before its images are decoded.

        Raises:
            BusyError: the line is full, and no other key's is longer.
        """
        lane = self._lanes[kind]
        if not lane.waiting or lane.length() < self.settings.max_queue:
            return
        if len(lane.waiting.get(key, ())) >= len(lane.waiting[lane.longest()]):
            self.refused("queue_full", key)
            raise _full(self._wait(lane, key, 1))

    def drain(self) -> None:
        """Refuse what waits and what comes; what runs goes on."""
        self._draining = True
        for lane in self._lanes.values():
            for waiter in [one for line in lane.waiting.values() for one in line]:
                lane.remove(waiter)
                self._refuse(waiter, "draining", _draining())

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
        """Wait for a turn, and hold it to the end of the context; gives the seconds that it took.

        Args:
            key: whose request it is.
            sequences: how many it will have sampled.
            tokens: how many it may sample.
            deadline: seconds to wait at most, where that is less than the operator's.
            weight: the key's share beside others.

        Raises:
            BusyError: the line is full, or the wait was too long; `retry_after` says when to try again.
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
            raise _draining()
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
            lane.done.append((lane.look(self._clock()), waiter.sequences))
            lane.end(waiter)
        else:
            lane.remove(waiter)
        self._fill()

    def _fill(self) -> None:
        """Let in whoever has room, the kind that uses less of its share first."""
        progress = True
        while progress:
            progress = False
            for kind in sorted(KINDS, key=lambda kind: self._lanes[kind].running / self._lanes[kind].share):
                lane = self._lanes[kind]
                waiter = lane.first()
                if waiter is None:
                    continue
                if waiter.turn.done():  # it was cancelled, and has not run yet
                    lane.remove(waiter)
                    progress = True
                elif self._fits(lane, waiter):
                    lane.look(self._clock())
                    lane.admit(waiter)
                    waiter.turn.set_result(None)
                    progress = True
                if progress:
                    break

    def _fits(self, lane: _Lane, waiter: _Waiter) -> bool:
        sequences, tokens = waiter.sequences, waiter.tokens
        if sum(one.running for one in self._lanes.values()) + sequences > self.capacity:
            return False
        if sum(one.tokens for one in self._lanes.values()) + tokens > self._most_tokens:
            return False
        if lane.running + sequences <= lane.share and lane.tokens + tokens <= lane.token_share:
            return True
        return not any(other.waiting for other in self._lanes.values() if other is not lane)

    def _wait(self, lane: _Lane, key: str, sequences: int) -> float:
        """Seconds until a request like this could have its turn, by what was served of late."""
        rate = lane.rate(self._clock())
        if rate is None:
            return UNKNOWN_WAIT
        own = sum(one.sequences for one in lane.waiting.get(key, ()))
        everyone = sum(one.sequences for line in lane.waiting.values() for one in line)
        holders = len({*lane.waiting, key})
        # A key's own line moves at its share of the rate, and nobody waits for more than the whole line.
        ahead = min(everyone, own * holders) + sequences
        return min(max(1.0, ahead / rate), LONGEST_WAIT)

    def _refuse(self, waiter: _Waiter, reason: str, error: BusyError) -> None:
        self.refused(reason, waiter.key)
        if not waiter.turn.done():
            waiter.turn.set_exception(error)


def _full(wait: float) -> BusyError:
    return BusyError(f"too many requests are waiting; try again in {wait:.0f} s", wait)


def _draining() -> DrainingError:
    return DrainingError("the server is shutting down; send the request again", 5)
