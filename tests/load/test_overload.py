"""Ten times what the server can do: every request has exactly one end, nobody starves, and nothing is left.

Arrivals don't wait for answers. Of the keys one floods, two ask for more than their share, and one asks for
little text. Run the long form by itself to see its figures:

    python -m pytest -s tests/load/test_overload.py -k minute
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest

from tests.helpers.servers import GuardedServer, RunningServer
from tests.load.asks import gated, mixed, text
from tests.load.driver import Ask, Driver, End, driving, of, percentile, summary
from tests.load.idleness import idle

CROWD = ("one", "two", "three")
"""Equal keys, of which the first asks three times as much as each other."""


@dataclass(frozen=True, slots=True)
class Overload:
    """What became of everything that was asked of a server with too much to do."""

    capacity: float
    """Requests per second that it answers when no more are asked."""
    crowd: list[End]
    texts: list[End]
    tries: list[tuple[End, bool]]
    """Of the key that waits and asks again: every try, and whether it was a question's last."""
    again: list[End]
    counted: dict[str, float]
    """The ends by the server's own count."""

    @property
    def patient(self) -> list[End]:
        return [end for end, last in self.tries if last]

    @property
    def ends(self) -> list[End]:
        return [*self.crowd, *self.texts, *(end for end, _ in self.tries), *self.again]


@pytest.mark.full
@pytest.mark.parametrize(("seconds", "measured"), [(8, 2), pytest.param(60, 15, id="a minute")])
def test_overload(guarded: GuardedServer, seconds: float, measured: float) -> None:
    result = asyncio.run(overload(guarded, seconds, measured))
    crowd = [guarded.keys[name] for name in CROWD]
    offered = len(result.crowd) / seconds
    print(f"\ncapacity {result.capacity:.1f} requests/s; offered {offered:.1f}/s, {seconds} s")
    print(f"crowd: {summary(result.crowd)}\ntext key: {summary(result.texts)}")
    print(f"patient key: {summary(result.patient)}, {len(result.tries) - len(result.patient)} tries more")
    print(f"asked again after their Retry-After: {summary(result.again)}")
    for name, key in zip(CROWD, crowd, strict=True):
        mine = of(result.crowd, keys=[key])
        print(f"{name}: asked {len(mine)}, answered {len(of(mine, status=200))}, gated {_gated(mine, 200)}")
    # Every ask has one end, by the clients' count and by the server's. That an answer is its ask's the driver
    # has checked.
    assert {end.status for end in result.ends} == {200, 429}
    for end in of(result.ends, status=429):
        assert end.retry_after is not None
        assert end.retry_after >= 1
        assert end.body["error"]["code"] == "overloaded"
    assert result.counted == {
        "answered": _gated(result.ends, 200), "refused": _gated(result.ends, 429), "others": 0,
        "overloaded": len(of(result.ends, status=429)),
    }  # fmt: skip
    # Keys of equal weight had as many gated requests answered, however many each had asked for.
    served = [_gated(of(result.crowd, keys=[key]), 200) for key in crowd]
    assert max(served) - min(served) <= 0.15 * max(served) + 2, served
    # A key that asks for less than its share is answered, and soon, whatever the others do.
    assert {end.status for end in result.texts} == {200}
    assert percentile(result.texts, 95) < 5
    assert {end.status for end in result.patient} == {200}
    assert {end.status for end in result.again} == {200}


async def overload(server: GuardedServer, seconds: float, measured: float) -> Overload:
    """Measure what the server can do, then ask ten times as much of it for a time; afterwards it is idle."""
    await idle(server)
    keys, chance = server.keys, Random(7)
    crowd = {keys[name]: 3 if name == "one" else 1 for name in CROWD}
    async with driving(server.url) as driver:
        busy = await driver.closed_loop(mixed(crowd, 0.25, chance), clients=16, seconds=measured)
        assert {end.status for end in busy} == {200}
        took = max(end.began + end.seconds for end in busy) - min(end.began for end in busy)
        capacity = len(busy) / took
        await idle(server)
        before = counts(server)
        flood, texts, tries = await asyncio.gather(
            driver.open_loop(mixed(crowd, 0.25, chance), rate=10 * capacity, seconds=seconds),
            driver.open_loop(_texts(keys["text"]), rate=capacity / 2, seconds=seconds),
            _patient(driver, keys["heavy"], seconds),
        )
        again = await _retried(driver, flood)
    await idle(server)
    now = counts(server)
    return Overload(capacity, flood, texts, tries, again, {name: now[name] - before[name] for name in now})


def _texts(key: str) -> Iterator[Ask]:
    return (text(key, seed=number) for number in range(100_000))


async def _patient(driver: Driver, key: str, seconds: float) -> list[tuple[End, bool]]:
    """Questions one after the other, asked again after their Retry-After; every try, and whether the last."""
    until, tries = time.monotonic() + seconds, list[tuple[End, bool]]()
    while time.monotonic() < until:
        for left in (3, 2, 1, 0):
            end = await driver.send(gated(key, seed=len(tries)))
            last = end.status != 429 or not left
            tries.append((end, last))
            if last:
                break
            await asyncio.sleep(end.retry_after or 0)
    return tries


async def _retried(driver: Driver, flood: list[End]) -> list[End]:
    """Some of the last that were refused, each after its Retry-After, after the flood."""

    async def later(end: End) -> End:
        assert end.retry_after is not None
        due = end.began + end.seconds + end.retry_after
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        return await driver.send(gated(end.ask.key))

    last = sorted(of(flood, status=429), key=lambda end: end.began)[-12:]
    return await asyncio.gather(*map(later, last))


def counts(server: RunningServer) -> dict[str, float]:
    """Ends of gated requests as the server counts them, and all refusals for want of room."""
    outcome = {
        name: server.gauge(f'mirl_requests_total{{outcome="{name}"}}')
        for name in ("answered", "fallback", "refused", "cancelled", "failed", "deadline", "partial")
    }
    return {
        # The bundled model's descriptions may all be unusable: then it answers without the gate.
        "answered": outcome["answered"] + outcome["fallback"],
        "refused": outcome["refused"],
        "others": sum(outcome[name] for name in ("cancelled", "failed", "deadline", "partial")),
        "overloaded": server.gauge('mirl_refusals_total{reason="overloaded"}'),
    }


def _gated(ends: list[End], status: int) -> int:
    return sum("gated" in end.ask.id for end in of(ends, status=status))
