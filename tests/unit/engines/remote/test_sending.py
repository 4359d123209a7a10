"""Requests under generated misbehaviour of servers: nothing twice, nothing lost, nothing left in flight."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.engines.base import RequestContext
from mirl_core.errors import EngineError, RequestError
from tests.unit.engines.remote.remote_cases import (
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    Asked,
    FakeServers,
    engine,
    refusal,
    sampled,
    samples,
)

BEHAVIOURS = ["well", "well", "well", "refused", "reset", "500", "503", "429", "400", "nonsense", "dead"]
FAILURES = {"refused", "reset", "500", "503", "429", "nonsense", "dead"}
URLS = ("http://one", "http://two", "http://three")


@dataclass
class Fleet:
    """Servers that behave as a list says, request by request."""

    behaviours: list[str]
    dead: set[str] = field(default_factory=set)
    begun: Counter[str] = field(default_factory=Counter)
    """How often each request reached a server."""
    answered: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    failed_at: set[str] = field(default_factory=set)
    asked_at: dict[str, list[str]] = field(default_factory=dict)

    async def generate(self, asked: Asked) -> Any:
        name = asked.body["request_id"].rsplit("-", 1)[1]
        behaviour = self.behaviours.pop(0) if self.behaviours else "well"
        await asyncio.sleep(0)
        if asked.url in self.dead:
            behaviour = "refused"
        if behaviour == "dead":
            self.dead.add(asked.url)
        self.asked_at.setdefault(name, []).append(asked.url)
        if behaviour in FAILURES:
            self.failed_at.add(asked.url)
        if behaviour == "refused":
            return httpx.ConnectError("refused")
        self.begun[name] += 1
        if behaviour == "400":
            self.refused.add(name)
            return refusal(400, "no")
        if behaviour in ("reset", "dead"):
            return httpx.ReadError("reset")
        if behaviour == "nonsense":
            self.answered[name] += 1
            return httpx.Response(200, json={"choices": []})
        if behaviour != "well":
            return httpx.Response(int(behaviour))
        self.answered[name] += 1
        return sampled(f"{name}")

    def health(self, asked: Asked) -> Any:
        return httpx.ConnectError("refused") if asked.url in self.dead else {}


@given(
    behaviours=st.lists(st.sampled_from(BEHAVIOURS), max_size=12),
    branches=st.integers(1, 6),
    count=st.integers(1, 3),
)
@settings(max_examples=150)
def test_no_answer_is_lost_or_duplicated(behaviours: list[str], branches: int, count: int) -> None:
    fleet = Fleet(list(behaviours))
    fake = FakeServers({RENDER: RENDERED, GENERATE: fleet.generate, "/health": fleet.health})

    async def run() -> None:
        one = engine(fake, *URLS[:count])
        rendered = await one.render(TEXT, RequestContext("id"))
        try:
            found = await samples(one, rendered, branches, RequestContext("id"))
        except RequestError:
            assert fleet.refused
        except EngineError:
            assert FAILURES & set(behaviours)
        else:
            # Each branch has its own answer, once.
            assert [sample.index for sample in found] == list(range(branches))
            assert [sample.text for sample in found] == [str(index) for index in range(branches)]
            assert not fleet.refused
        assert all(server.in_flight == 0 for server in one.servers)
        assert max(fleet.answered.values(), default=0) <= 1, "no answer is generated twice"
        assert max(fleet.begun.values(), default=0) <= 2
        # Another server is asked only after one has failed.
        asked = {url for urls in fleet.asked_at.values() for url in urls}
        assert len(asked) <= 1 + len(fleet.failed_at)
        await one.close()

    asyncio.run(run())


@given(st.lists(st.sampled_from(["well", "400"]), min_size=1, max_size=8))
def test_refusals_are_never_repeated_and_do_no_harm(behaviours: list[str]) -> None:
    fleet = Fleet(list(behaviours))
    fake = FakeServers({RENDER: RENDERED, GENERATE: fleet.generate, "/health": fleet.health})

    async def run() -> None:
        one = engine(fake, *URLS)
        rendered = await one.render(TEXT, RequestContext("id"))
        for number, behaviour in enumerate(behaviours):
            try:
                await samples(one, rendered, 1, RequestContext(f"id-{number}"))
            except RequestError:
                assert behaviour == "400"
            else:
                assert behaviour == "well"
        assert len(fake.bodies(GENERATE)) == len(behaviours)
        assert len(set(fake.hosts(GENERATE))) == 1
        assert all(server.up and server.breaker.failures == 0 for server in one.servers)
        await one.close()

    asyncio.run(run())
