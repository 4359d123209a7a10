"""Requests under generated misbehaviour of servers: nothing twice, nothing lost, nothing left in flight."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.engines.base import RequestContext
from mirl_core.errors import EngineError, RequestError
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    FakeRequest,
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
    urls_by_branch: dict[str, list[str]] = field(default_factory=dict)

    async def generate(self, request: FakeRequest) -> Any:
        name = request.body["request_id"].rsplit("-", 1)[1]
        behaviour = self.behaviours.pop(0) if self.behaviours else "well"
        await asyncio.sleep(0)
        if request.url in self.dead:
            behaviour = "refused"
        if behaviour == "dead":
            self.dead.add(request.url)
        self.urls_by_branch.setdefault(name, []).append(request.url)
        if behaviour in FAILURES:
            self.failed_at.add(request.url)
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

    def health(self, request: FakeRequest) -> Any:
        return httpx.ConnectError("refused") if request.url in self.dead else {}


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
        remote = engine(fake, *URLS[:count])
        rendered = await remote.render(TEXT, RequestContext("id"))
        try:
            drawn = await samples(remote, rendered, branches, RequestContext("id"))
        except RequestError:
            assert fleet.refused
        except EngineError:
            assert FAILURES & set(behaviours)
        else:
            # Each branch has its own answer, once.
            assert [sample.index for sample in drawn] == list(range(branches))
            assert [sample.text for sample in drawn] == [str(index) for index in range(branches)]
            assert not fleet.refused
        assert all(server.in_flight == 0 for server in remote.servers)
        assert max(fleet.answered.values(), default=0) <= 1, "no answer is generated twice"
        assert max(fleet.begun.values(), default=0) <= 2
        # Another server gets a request only after one has failed.
        reached = {url for urls in fleet.urls_by_branch.values() for url in urls}
        assert len(reached) <= 1 + len(fleet.failed_at)
        await remote.close()

    asyncio.run(run())


@given(st.lists(st.sampled_from(["well", "400"]), min_size=1, max_size=8))
def test_refusals_are_never_repeated_and_do_no_harm(behaviours: list[str]) -> None:
    fleet = Fleet(list(behaviours))
    fake = FakeServers({RENDER: RENDERED, GENERATE: fleet.generate, "/health": fleet.health})

    async def run() -> None:
        remote = engine(fake, *URLS)
        rendered = await remote.render(TEXT, RequestContext("id"))
        for number, behaviour in enumerate(behaviours):
            try:
                await samples(remote, rendered, 1, RequestContext(f"id-{number}"))
            except RequestError:
                assert behaviour == "400"
            else:
                assert behaviour == "well"
        assert len(fake.bodies(GENERATE)) == len(behaviours)
        assert len(set(fake.hosts(GENERATE))) == 1
        assert all(server.up and server.breaker.failures == 0 for server in remote.servers)
        await remote.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("count", "failure", "moved"),
    [
        (1, httpx.ConnectError("refused"), 0),
        (1, httpx.ReadError("reset"), 0),
        (2, httpx.ConnectError("refused"), 1),
        (2, httpx.ReadError("reset"), 1),
        (2, refusal(503, "later"), 1),
    ],
)
async def test_only_a_request_that_goes_to_another_server_is_counted_as_moved(
    count: int, failure: Any, moved: int
) -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: [failure, sampled("a")]})
    remote = engine(fake, *URLS[:count])
    await samples(remote, await remote.render(TEXT, CONTEXT))
    first, _ = fake.hosts(GENERATE)
    counted = {server.url: server.counters.moved for server in remote.servers}
    assert counted == dict.fromkeys(URLS[:count], 0) | {first: moved}
    await remote.close()
