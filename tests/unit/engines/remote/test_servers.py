"""The engine over HTTP: servers that die, come back, are wrong or busy; calls that end early."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from mirl_core.engines.base import Sampling
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.pool.settings import PoolSettings
from mirl_core.engines.remote.server import Server
from mirl_core.engines.remote.tokens import requests as _remote_requests
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, RequestError
from mirl_core.types import Conversation
from tests.helpers.waiting import until
from tests.unit.engines.remote.remote_cases import (
    ABORT,
    CONTEXT,
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    FakeRequest,
    FakeServers,
    engine,
    good_server,
    refusal,
    sampled,
    samples,
    without_id,
)


async def test_a_server_that_dies_is_left_out_and_its_conversations_move() -> None:
    dead: set[str] = set()

    def unless_dead(answer: Any) -> Any:
        return lambda request: httpx.ConnectError("refused") if request.url in dead else answer

    answers = {path: unless_dead(answer) for path, answer in ((RENDER, RENDERED), ("/health", {}))}
    fake = FakeServers({**answers, GENERATE: unless_dead(sampled("a"))})
    urls = ("http://one:1", "http://two:2", "http://three:3")
    remote = engine(fake, *urls)
    rendered = [await remote.render(TEXT, CONTEXT) for _ in range(6)]
    (home,) = set(fake.hosts(RENDER))
    await samples(remote, rendered[0], 2)
    assert set(fake.hosts(GENERATE)) == {home}
    dead.add(home)
    assert len(await samples(remote, rendered[0], 3)) == 3
    await remote.health()
    fake.requests.clear()
    assert len(await samples(remote, rendered[0], 3)) == 3
    assert len(set(fake.hosts(GENERATE))) == 1, "its branches stay together"
    await remote.render(TEXT, CONTEXT)
    (second,) = set(fake.hosts(RENDER))
    assert second != home
    dead.update(urls)
    with pytest.raises(EngineDeadError, match="can't be reached"):
        await samples(remote, rendered[0])
    with pytest.raises(EngineDeadError):
        await remote.health()
    with pytest.raises(EngineDeadError):
        await remote.render(TEXT, CONTEXT)


async def test_a_request_that_breaks_connections_is_sent_twice_at_most() -> None:
    """It may be what kills the engines."""
    fake = FakeServers({RENDER: RENDERED, GENERATE: httpx.ReadError("reset")})
    fake.answers["/health"] = lambda request: (
        httpx.ConnectError("gone") if request.url in fake.hosts(GENERATE) else {}
    )
    remote = engine(fake, "http://1", "http://2", "http://3", "http://4")
    rendered = await remote.render(TEXT, CONTEXT)
    with pytest.raises(EngineError, match="lost") as caught:
        await samples(remote, rendered)
    assert not isinstance(caught.value, EngineDeadError)
    assert len(fake.bodies(GENERATE)) == 2
    # A server that closed an idle connection is not left out.
    fake.answers["/health"] = {}
    fake.answers[GENERATE] = [httpx.RemoteProtocolError("Server disconnected"), sampled("a")]
    assert len(await samples(remote, rendered)) == 1
    assert sum(server.up for server in remote.servers) == 2


async def test_a_dead_engine_behind_a_live_server_is_dead() -> None:
    fake = FakeServers(
        {RENDER: RENDERED, GENERATE: refusal(500, "EngineCore"), "/health": httpx.Response(503)}
    )
    remote = engine(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    with pytest.raises(EngineDeadError, match="EngineCore"):
        await samples(remote, rendered)


async def test_a_sample_that_a_server_cut_is_sampled_elsewhere() -> None:
    """As vLLM cuts what runs when it shuts down."""
    fake = FakeServers({RENDER: RENDERED, GENERATE: [sampled("hal", "abort"), sampled("half")]})
    remote = engine(fake, "http://one", "http://two")
    (sample,) = await samples(remote, await remote.render(TEXT, CONTEXT))
    assert (sample.text, sample.finish_reason) == ("half", "stop")
    assert len(set(fake.hosts(GENERATE))) == 2
    fake.answers[GENERATE] = lambda _: sampled("hal", "abort")
    with pytest.raises(EngineError, match="shutting down"):
        await samples(remote, await remote.render(TEXT, CONTEXT))


async def test_weights_that_nobody_pushed_are_not_sampled_from() -> None:
    def while_pushed(_: FakeRequest) -> Any:
        remote.expect("7")
        return sampled("a", versions=("6", "7"))

    fake = FakeServers({RENDER: RENDERED, GENERATE: [while_pushed, sampled("a")]})
    remote = engine(fake)
    remote.expect("6")
    rendered = await remote.render(TEXT, CONTEXT)
    assert len(await samples(remote, rendered)) == 1
    with pytest.raises(EngineError, match="other weights"):
        await samples(remote, rendered)


async def test_an_update_leaves_out_where_it_fails() -> None:
    fake = FakeServers({RENDER: RENDERED})
    remote = engine(fake, "http://one", "http://two")
    broken = {"http://one"}

    async def update(server: Server) -> None:
        if server.url in broken:
            raise EngineError("no such folder")

    await remote.update(update, "1")
    assert [server.up for server in remote.servers] == [False, True]
    assert remote.servers[1].weights_version == "1"
    broken.add("http://two")
    with pytest.raises(EngineError, match="no such folder"):
        await remote.update(update, "2")


async def test_abort_ends_what_runs_and_what_is_on_its_way() -> None:
    ended = asyncio.Event()

    async def slow(request: FakeRequest) -> Any:
        if request.body["request_id"].endswith("-0"):
            return sampled("done")
        await ended.wait()
        return sampled("cut", "abort")

    def abort(_: FakeRequest) -> Any:
        # The first one comes before the server knows the request.
        if len(fake.bodies(ABORT)) > 1:
            ended.set()
        return httpx.Response(200)

    fake = FakeServers({RENDER: RENDERED, GENERATE: slow, ABORT: abort})
    remote = engine(fake, connections=3)
    rendered = await remote.render(TEXT, CONTEXT)
    stream = remote.generate(rendered, (), 5, Sampling(max_tokens=9), CONTEXT)
    drawn = [await anext(stream)]
    await remote.abort("id")
    drawn += [sample async for sample in stream]
    reasons = {sample.index: (sample.finish_reason, sample.text) for sample in drawn}
    assert reasons[0] == ("stop", "done")
    assert [reasons[index][0] for index in range(1, 5)] == ["abort"] * 4
    assert sorted(text for _, text in reasons.values()) == ["", "cut", "cut", "cut", "done"]
    names = fake.bodies(ABORT)[0]["request_ids"]
    assert all(name.startswith("generate-tokens-mirl-") for name in names)
    await remote.abort("unknown")


async def test_abort_cuts_off_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote_requests, "ABORT_SECONDS", (0.01, 0.01))
    cancelled = 0

    async def never(_: FakeRequest) -> Any:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: never, ABORT: refusal(500, "no")}))
    stream = remote.generate(await remote.render(TEXT, CONTEXT), (), 2, Sampling(max_tokens=9), CONTEXT)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    await remote.abort("id")
    drawn = [await reader, *[sample async for sample in stream]]
    assert [(sample.finish_reason, sample.token_ids) for sample in drawn] == [("abort", ())] * 2
    assert cancelled == 2


@pytest.mark.parametrize("how", ["cancel", "close", "error"])
async def test_nothing_runs_on(how: str) -> None:
    running = 0

    async def slow(request: FakeRequest) -> Any:
        nonlocal running
        running += 1
        try:
            if request.body["request_id"].endswith("-0"):
                return refusal(400, "no") if how == "error" else sampled("a")
            await asyncio.sleep(60)
        finally:
            running -= 1

    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: slow}))
    rendered = await remote.render(TEXT, CONTEXT)
    stream = remote.generate(rendered, (), 4, Sampling(max_tokens=9), CONTEXT)
    if how == "error":
        with pytest.raises(RequestError):
            await anext(stream)
    else:
        await anext(stream)
        assert running == 3
        with pytest.raises(EngineError, match="already"):
            await anext(remote.generate(rendered, (), 1, Sampling(max_tokens=9), CONTEXT))
        if how == "cancel":
            reader = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
        else:
            await stream.aclose()
    assert running == 0


async def test_requests_wait_for_a_connection() -> None:
    running, most = 0, 0

    async def slow(_: FakeRequest) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return sampled("a")

    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: slow}), connections=3)
    assert len(await samples(remote, await remote.render(TEXT, CONTEXT), 10)) == 10
    assert most == 3


async def test_neither_key_nor_prompt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fake = FakeServers({RENDER: RENDERED, GENERATE: httpx.ConnectError("refused")})
    fake.answers["/health"] = httpx.ConnectError("refused")
    remote = engine(fake)
    rendered = await remote.render(Conversation(({"role": "user", "content": "my secret"},)), CONTEXT)
    with pytest.raises(EngineDeadError) as caught:
        await samples(remote, rendered)
    assert "secret" not in caplog.text + caught.value.message
    assert "left out" in caplog.text


async def test_closed_is_dead() -> None:
    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: sampled("a")}))
    rendered = await remote.render(TEXT, CONTEXT)
    await remote.close()
    for call in (samples(remote, rendered), remote.render(TEXT, CONTEXT), remote.health()):
        with pytest.raises(EngineDeadError, match="closed"):
            await call


async def start(fake: FakeServers, *urls: str, **kwargs: Any) -> RemoteEngine:
    urls = urls or ("http://one/v1",)
    return await RemoteEngine.start(urls, transport=httpx.MockTransport(fake), api_key="secret-key", **kwargs)


async def test_start_queries_and_checks(letters: list[str]) -> None:
    fake = good_server()
    remote = await start(fake)
    assert (remote.max_model_len, letters) == (100, ["/models/it"])
    assert remote.servers[0].counts_cached
    assert fake.bodies("/tokenize") == [
        {
            "model": "the-model",
            "prompt": "<description>Two red 7s,\n née</description> <think>a + b</think>",
            "add_special_tokens": False,
        }
    ]
    hot, scoring = (without_id(body) for body in fake.bodies(GENERATE))
    assert hot == {
        "model": "the-model",
        "token_ids": [1, 2, 3],
        "sampling_params": {
            "max_tokens": 8,
            "temperature": 2.0,
            "detokenize": False,
            "ignore_eos": True,
            "logprobs": 5,
        },
    }
    assert scoring["token_ids"] == [1, 2, 3, ord("a"), ord("b")]
    assert all(request.headers["authorization"] == "Bearer secret-key" for request in fake.requests)
    await start(fake, tokenizer="/here")
    assert letters[-1] == "/here"


async def test_start_refuses_wrong_servers(letters: list[str]) -> None:
    def processed(request: FakeRequest) -> Any:
        answer = good_server().answers[GENERATE](request)
        for position in answer["choices"][0]["logprobs"]["content"]:
            position["logprob"] = -2.0
        return answer

    def logits(request: FakeRequest) -> Any:
        answer = good_server().answers[GENERATE](request)
        for position in answer["choices"][0]["logprobs"]["content"]:
            position["top_logprobs"] = [{"logprob": 12.0}]
        return answer

    for path, answer, message in (
        ("/tokenize", {"tokens": [1]}, "tokenizer"),
        (GENERATE, processed, "raw_logprobs"),
        (GENERATE, logits, "raw_logprobs"),
        (RENDER, refusal(403, "Restart vllm serve with --enable-scale-out"), "--enable-scale-out"),
        (RENDER, httpx.Response(404, json={"detail": "Not Found"}), "vLLM 0.32"),
        (RENDER, httpx.Response(401, json={"error": "Unauthorized"}), "Unauthorized"),
        ("/v1/models", {"data": []}, "serve"),
    ):
        fake = good_server()
        fake.answers[path] = answer
        with pytest.raises(ConfigError, match=message):
            await start(fake)
    with pytest.raises(ConfigError, match="the-model"):
        await start(good_server(), model="another")
    with pytest.raises(ConfigError):
        await RemoteEngine.start([])


async def test_start_needs_one_server_and_takes_the_other_in_later(
    letters: list[str],
) -> None:
    fake = good_server()
    down = {"http://two"}
    plain = fake.__call__

    async def partly(request: httpx.Request) -> httpx.Response:
        if f"http://{request.url.host}" in down:
            raise httpx.ConnectError("refused")
        return await plain(request)

    remote = await RemoteEngine.start(
        ["http://one", "http://two"],
        transport=httpx.MockTransport(partly),
        settings=PoolSettings(first_wait=0.05, tick=0.02),
    )
    await remote.render(TEXT, CONTEXT)
    assert [server.up for server in remote.servers] == [True, False]
    down.clear()
    async with asyncio.timeout(60):
        await until(lambda: remote.servers[1].up)
    # Back with other weights than were pushed, it has to wait for them.
    remote.expect("5")
    fake.answers["/weight_info"] = {"weight_version": "default"}
    remote.servers[1].up = False
    await remote.health()
    assert [server.up for server in remote.servers] == [True, False]
    fake.answers["/weight_info"] = {"weight_version": "5"}
    await remote.health()
    assert [server.up for server in remote.servers] == [True, True]
    await remote.close()
    down.update(("http://one", "http://two"))
    with pytest.raises(EngineDeadError, match="refused"):
        await RemoteEngine.start(["http://one", "http://two"], transport=httpx.MockTransport(partly))
