"""Thousands of requests of every kind and every ending, and the server is as large as before.

python -m pytest -s tests/load/test_memory.py -k thousand
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

import pytest

from tests.helpers.servers import NAME, GuardedServer
from tests.load.asks import fresh, gated, text
from tests.load.driver import LEFT, Ask, driving
from tests.load.idleness import idle
from tests.load.inside import Inside

CLIENTS = 8
LONG = {"descriptions": 8, "keep": 4, "forks": 4, "early_stop": False}


def everything(key: str, chance: Random) -> Iterator[Ask]:
    """Requests of every kind, one in three of which goes wrong: refused, unknown, or left by its client."""
    while True:
        seed, stream = chance.randrange(1000), chance.random() < 0.5
        yield gated(key, stream, seed)
        yield text(key, stream, seed)
        yield gated(key, stream, seed, n=2)
        body = {"model": NAME, "prompt": f"{seed} and", "max_tokens": 4}
        yield Ask(id=fresh("completion"), key=key, path="/v1/completions", body=body)
        fields: list[dict[str, Any]] = [{"frob": 1}, {"mirl": {"kep": 2}}, {"n": 99}]
        wrong = gated(key, stream, seed, **chance.choice(fields))
        broken = gated(key, stream, seed, messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}])  # fmt: skip
        yield chance.choice([wrong, broken, text(key, stream, model="nobody"), text("unknown-key")])
        leaver = chance.choice(
            [
                gated(key, stream, seed, max_tokens=400, mirl=LONG),
                text(key, stream, seed, max_tokens=400, n=8, ignore_eos=True),
            ]
        )
        yield replace(leaver, leaves=chance.uniform(0.02, 0.4))


def test_nothing_is_left_of_some_requests(guarded: GuardedServer) -> None:
    before, after = asyncio.run(grown(guarded, 60, 100))
    assert left_over(before, after) == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_memory_is_flat_over_two_thousand_requests(guarded: GuardedServer) -> None:
    before, after = asyncio.run(grown(guarded, 600, 2000))
    assert left_over(before, after) == []
    # A leak of 20 kB a request would be 40 MB.
    assert after.server_bytes - before.server_bytes < 20e6
    assert after.engine_bytes - before.engine_bytes < 30e6
    assert after.objects - before.objects < 2000


async def grown(server: GuardedServer, warm: int, requests: int) -> tuple[Inside, Inside]:
    """The server after a warm-up, and after so many requests more."""
    asks = everything(server.keys["one"], Random(11))
    states: list[Inside] = []
    for count in (warm, requests):
        async with driving(server.url) as driver:
            ends = await driver.closed_loop(islice(asks, count), CLIENTS, seconds=800)
        assert len(ends) == count
        await idle(server)
        states.append(Inside.of(server))
        statuses = Counter(end.status for end in ends)
        print(f"\nafter {count} requests ({dict(sorted(statuses.items()))}): {states[-1]}")
        assert set(statuses) == {200, 400, 401, 404, LEFT}
    return states[0], states[1]


def left_over(before: Inside, after: Inside) -> list[str]:
    """What there is more of than there was, beyond what comes and goes."""
    room = {"files": 3, "tasks": 2, "threads": 4}
    return [name for name, more in room.items() if getattr(after, name) > getattr(before, name) + more]
