"""What the load tests ask: small questions of every kind, so that many fit into a second of two cores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from random import Random
from typing import Any

from tests.helpers.image_requests import image_question
from tests.helpers.servers import NAME
from tests.load.driver import Ask

SMALL = {"descriptions": 3, "keep": 2, "forks": 2, "description_tokens": 24}
LENGTH = 32
WIDE = {"descriptions": 6, "keep": 4, "forks": 3, "description_tokens": 48, "early_stop": False}
"""18 sequences: work enough for the engine, not the HTTP server, to be what is overloaded."""
_numbers = itertools.count()


@cache
def _messages(seed: int) -> list[Any]:
    return image_question(seed=seed)


def fresh(what: str) -> str:
    """An id that nobody has."""
    return f"load-{what}-{next(_numbers)}-end"


def gated(key: str = "", stream: bool = False, seed: int = 0, **fields: Any) -> Ask:
    """A question about one of twenty pictures: seven sequences, unless `fields` say otherwise."""
    body = {
        "model": NAME, "messages": _messages(seed % 20), "max_tokens": LENGTH, "mirl": SMALL,
        "stream": stream, **fields,
    }  # fmt: skip
    return Ask(id=fresh("gated"), key=key, body=body)


def text(key: str = "", stream: bool = False, seed: int = 0, **fields: Any) -> Ask:
    """A question without a picture, which is vLLM's own handler's: one sequence."""
    messages = [{"role": "user", "content": f"What is {seed} and {seed}?"}]
    body = {"model": NAME, "messages": messages, "max_tokens": LENGTH, "stream": stream, **fields}
    return Ask(id=fresh("text"), key=key, body=body)


def mixed(weights: Mapping[str, int], texts: float, chance: Random) -> Iterator[Ask]:
    """Asks without end: by key as often as its weight says, a share of them texts, every fourth a stream."""
    names, shares = list(weights), list(weights.values())
    while True:
        (key,) = chance.choices(names, shares)
        how: dict[str, Any] = {"key": key, "stream": chance.random() < 0.25, "seed": chance.randrange(1000)}
        yield text(**how) if chance.random() < texts else gated(**how, mirl=WIDE, max_tokens=40)
