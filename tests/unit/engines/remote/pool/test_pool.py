"""The pool: servers that join, leave, hang and come back; names that stand for several servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.pool.addresses import addresses_of
from mirl_core.engines.remote.pool.settings import PoolSettings
from mirl_core.errors import ConfigError, EngineDeadError, EngineError
from mirl_core.types import Conversation
from tests.helpers.waiting import until
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    FakeRequest,
    FakeServers,
    engine,
    good_server,
    sampled,
    samples,
)

FAST = PoolSettings(first_wait=0.02, longest_wait=0.1, tick=0.01, check_seconds=0.0)


async def holds(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        await until(condition)


def conversation(number: int) -> Conversation:
    return Conversation(({"role": "user", "content": f"Question {number}"},))


async def test_the_engine_outlives_its_servers(letters: list[str]) -> None:
    fake = good_server()
    down = True

    async def partly(request: httpx.Request) -> httpx.Response:
        if down:
            raise httpx.ConnectError("refused")
        return await fake(request)

    remote = await RemoteEngine.start(
        ["http://one"], transport=httpx.MockTransport(partly), required=False, settings=FAST
    )
    assert not remote.ready
    (state,) = remote.pool.states()
    assert (state.status, state.ready, "refused" in str(state.last_error)) == ("down", False, True)
    with pytest.raises(EngineDeadError, match="refused"):
        await remote.render(TEXT, CONTEXT)
    with pytest.raises(EngineDeadError, match="joined"):
        remote.encode("a")
    down = False
    await holds(lambda: remote.ready)
    assert remote.max_model_len == 100
    assert remote.token_exact
    assert remote.inexact_reason is None
    assert (await remote.render(TEXT, CONTEXT)).prompt_tokens == 3
    assert await samples(remote, await remote.render(TEXT, CONTEXT))
    down = True
    with pytest.raises(EngineDeadError):
        await samples(remote, await remote.render(TEXT, CONTEXT))
    assert not remote.ready
    assert remote.encode("a") == (97,)
    down = False
    await holds(lambda: remote.ready)
    await remote.close()


async def test_what_is_wrong_with_a_server_stands_in_its_state(letters: list[str]) -> None:
    longer = good_server()
    longer.answers["/v1/models"] = {"data": [{"id": "the-model", "root": "/m", "max_model_len": 200}]}
    old = good_server()
    old.answers["/version"] = {"version": "0.31.2"}
    new = good_server()
    new.answers["/version"] = {"version": "0.33.1+cpu"}
    other = good_server()
    other.answers["/v1/models"] = {"data": [{"id": "another", "root": "/m", "max_model_len": 100}]}
    fakes = {"good": good_server(), "longer": longer, "old": old, "new": new, "other": other}

    async def by_host(request: httpx.Request) -> httpx.Response:
        return await fakes[request.url.host](request)

    urls = [f"http://{name}" for name in fakes]
    transport = httpx.MockTransport(by_host)
    remote = await RemoteEngine.start(urls[:1], transport=transport, settings=FAST)
    await remote.close()
    for url, says in (
        ("http://longer", "max-model-len"), ("http://old", "0.31.2"), ("http://other", "another")
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            await RemoteEngine.start(["http://good", url], transport=transport)
    remote = await RemoteEngine.start(urls, transport=transport, required=False, settings=FAST)
    states = {state.url: state for state in remote.pool.states()}
    assert states["http://good"].ready
    assert states["http://new"].vllm_version == "0.33.1+cpu"
    refused = [state for state in states.values() if state.status == "refused"]
    assert len(refused) == 3
    assert all(state.retry_in is not None for state in refused)
    await remote.close()


async def test_names_are_looked_up_again(letters: list[str]) -> None:
    fake = good_server()
    addresses: list[str] | Exception = ["10.0.0.1", "10.0.0.2"]

    async def resolve(name: str, port: int) -> list[str]:
        assert (name, port) == ("model.svc", 8000)
        if isinstance(addresses, Exception):
            raise addresses
        return addresses

    seen: list[httpx.Request] = []

    async def note(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return await fake(request)

    settings = PoolSettings(first_wait=0.02, tick=0.01, resolve_seconds=0.02, check_seconds=0.0)
    remote = await RemoteEngine.start(
        ["https://model.svc:8000/v1"],
        transport=httpx.MockTransport(note),
        settings=settings,
        resolve=resolve,
    )
    assert [server.address for server in remote.servers] == ["10.0.0.1", "10.0.0.2"]
    assert {request.url.host for request in seen} == {"10.0.0.1", "10.0.0.2"}
    assert {request.headers["host"] for request in seen} == {"model.svc:8000"}
    assert {request.extensions["sni_hostname"] for request in seen} == {"model.svc"}
    first, second = remote.servers
    assert first.name == "https://model.svc:8000 (10.0.0.1)"

    hold = asyncio.Event()

    async def slow(_: FakeRequest) -> Any:
        await hold.wait()
        return sampled("ab")

    fake.answers[GENERATE] = slow
    rendered = await remote.render(TEXT, CONTEXT)
    home = rendered.inputs.server
    running = asyncio.ensure_future(samples(remote, rendered))
    await holds(lambda: home.in_flight == 1)
    fake.answers[GENERATE] = good_server().answers[GENERATE]
    addresses = ["10.0.0.3"]
    await holds(lambda: any(server.address == "10.0.0.3" and server.up for server in remote.servers))
    assert not first.up
    assert not second.up
    assert home in remote.servers, "what it works on ends first"
    addresses = OSError("the name service is down")
    await asyncio.sleep(0.1)
    assert remote.ready, "servers outlive the name service"
    hold.set()
    assert len(await running) == 1
    await holds(lambda: len(remote.servers) == 1)
    addresses = []
    await asyncio.sleep(0.1)
    assert remote.ready
    await remote.close()


async def test_addresses_of_a_name() -> None:
    assert await addresses_of("127.0.0.1", 80) == ("127.0.0.1",)
    assert await addresses_of("localhost", 80) == ("127.0.0.1",)
    with pytest.raises(OSError, match=r".+"):
        await addresses_of("name.invalid", 80)


async def test_new_conversations_go_where_there_is_least_to_do() -> None:
    hold = asyncio.Event()

    async def slow(_: FakeRequest) -> Any:
        await hold.wait()
        return sampled("a")

    remote = engine(
        FakeServers({RENDER: RENDERED, GENERATE: slow}), "http://one", "http://two", connections=64
    )
    tasks = []
    for number in range(12):
        rendered = await remote.render(conversation(number), CONTEXT)
        tasks.append(asyncio.ensure_future(samples(remote, rendered, 10, RequestContext(str(number)))))
        await asyncio.sleep(0)
        await holds(lambda: sum(server.in_flight for server in remote.servers) == 10 * len(tasks))
        low, high = sorted(server.in_flight for server in remote.servers)
        assert high - low <= 16 + 10, "the slack, and one request's branches"
    hold.set()
    await asyncio.gather(*tasks)
    assert [server.in_flight for server in remote.servers] == [0, 0]


async def test_the_same_beginning_goes_to_the_same_server() -> None:
    remote = engine(FakeServers({RENDER: RENDERED}), *(f"http://{number}" for number in range(5)))
    homes = {}
    for number in range(20):
        rendered = [await remote.render(conversation(number), CONTEXT) for _ in range(3)]
        (homes[number],) = {item.inputs.server.url for item in rendered}
    assert len(set(homes.values())) > 2
    salted = [
        (
            await remote.render(conversation(0), RequestContext("id", cache_salt=f"tenant {number}"))
        ).inputs.server
        for number in range(20)
    ]
    assert len(set(salted)) > 2, "tenants share no prefix"


async def test_a_server_that_was_remembered_is_picked_while_it_is_up() -> None:
    remote = engine(FakeServers(), "http://one", "http://two")
    pool = remote.pool
    for server in remote.servers:
        pool.remember("response", server)
        assert await pool.pick("response") is server
    assert await pool.pick("response", without={server}) is not server
    server.up = False
    assert await pool.pick("response") is not server


async def test_a_server_that_fails_again_and_again_is_left_out_though_it_is_healthy() -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: httpx.Response(500)})
    remote = engine(fake, "http://one")
    for _ in range(3):
        assert remote.ready
        with pytest.raises(EngineError, match="500"):
            await samples(remote, await remote.render(TEXT, CONTEXT))
    (state,) = remote.pool.states()
    assert (state.status, state.breaker, state.counters.failures) == ("down", "open", 3)
    assert state.counters.openings == 1


@pytest.mark.parametrize("check_seconds", [0.0, 0.02], ids=["while it is up", "after a failed check"])
async def test_a_server_that_hangs_loses_its_requests_to_another(
    letters: list[str], check_seconds: float
) -> None:
    fakes = {"one": good_server(), "two": good_server()}
    hung: set[str] = set()
    cancelled: list[str] = []

    async def partly(request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host in hung:
            if request.url.path == "/health" and check_seconds:
                raise httpx.ReadTimeout("slow")
            try:
                await asyncio.sleep(request.extensions["timeout"]["read"])
            except asyncio.CancelledError:
                cancelled.append(request.url.path)
                raise
            raise httpx.ReadTimeout("slow")
        return await fakes[host](request)

    settings = PoolSettings(first_wait=0.02, tick=0.01, check_seconds=check_seconds, stall_seconds=0.1)
    remote = await RemoteEngine.start(
        ["http://one", "http://two"], transport=httpx.MockTransport(partly), settings=settings
    )
    rendered = await remote.render(TEXT, CONTEXT)
    home = rendered.inputs.server
    hung.add(httpx.URL(home.url).host)
    drawn = await samples(remote, rendered, 3)
    assert [sample.text for sample in drawn] == ["ab"] * 3
    assert cancelled.count(GENERATE) >= 3
    assert home.counters.stalls == 1
    assert not home.up
    hung.clear()
    await holds(lambda: home.up)
    assert all(server.in_flight == 0 for server in remote.servers)
    await remote.close()


async def test_a_slow_server_that_answers_probes_is_not_left_out(letters: list[str]) -> None:
    fake = good_server()

    async def slow(request: FakeRequest) -> Any:
        if not request.body.get("request_id", "").startswith("mirl-check"):
            await asyncio.sleep(0.5)
        return good_server().answers[GENERATE](request)

    fake.answers[GENERATE] = slow
    settings = PoolSettings(tick=0.01, check_seconds=0.0, stall_seconds=0.05)
    remote = await RemoteEngine.start(["http://one"], transport=httpx.MockTransport(fake), settings=settings)
    assert len(await samples(remote, await remote.render(TEXT, CONTEXT))) == 1
    assert remote.ready
    await remote.close()


async def test_an_idle_server_that_dies_is_noticed(letters: list[str]) -> None:
    fake = good_server()
    settings = PoolSettings(first_wait=10.0, tick=0.01, check_seconds=0.03)
    remote = await RemoteEngine.start(["http://one"], transport=httpx.MockTransport(fake), settings=settings)
    fake.answers["/health"] = httpx.Response(503)
    await holds(lambda: not remote.ready)
    await remote.close()


async def test_nothing_is_left_in_flight_after_cancellation() -> None:
    async def never(_: FakeRequest) -> Any:
        await asyncio.sleep(600)

    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: never}), "http://one", "http://two")
    rendered = await remote.render(TEXT, CONTEXT)
    stream = remote.generate(rendered, (), 4, Sampling(max_tokens=9), CONTEXT)
    reader = asyncio.ensure_future(anext(stream))
    await holds(lambda: sum(server.in_flight for server in remote.servers) == 4)
    reader.cancel()
    await asyncio.wait([reader])
    assert sum(server.in_flight for server in remote.servers) == 0
    assert all(server.breaker.failures == 0 for server in remote.servers)
