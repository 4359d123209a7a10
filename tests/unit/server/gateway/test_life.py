"""The gateway starts before its engines, outlives them, and drains as a server with an engine does."""

from __future__ import annotations

import asyncio
import json

import pytest

from mirl_core.errors import ConfigError, EngineDeadError
from mirl_server.gateway import engines as gateway_engines
from tests.helpers.waiting import until
from tests.unit.server.gateway.gateway_cases import NAME, FakeVLLM, gateway_before
from tests.unit.server.harness import question

CHAT = "/v1/chat/completions"
GATED = {"model": NAME, "messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}

SCORED = {"model": NAME, "messages": [question()], "descriptions": ["a seven"]}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_engines, "RETRY_SECONDS", 0.02)


async def test_gated_requests_run_over_the_remote_engine() -> None:
    async with gateway_before(FakeVLLM()) as behind:
        answer = await behind.post(CHAT, GATED)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "7"
        assert [d["kept"] for d in answer.json()["mirl"]["descriptions"]] == [True, False]
        # Nothing of it is a plain request.
        assert not behind.servers[0].received
        stream = await behind.post(CHAT, {**GATED, "stream": True})
        assert stream.text.endswith("data: [DONE]\n\n")


async def test_names_and_cards_are_the_engines() -> None:
    server = FakeVLLM(gates=True)
    server.cards += [
        {**server.cards[0], "id": "alias"},
        {"id": "adapter", "object": "model", "root": "/loras/a", "parent": NAME, "max_model_len": None},
    ]
    async with gateway_before(server) as behind:
        cards = (await behind.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == [NAME, f"{NAME}:direct", "alias", "alias:direct", "adapter"]
        assert (await behind.get("/v1/models/alias:direct")).json()["parent"] == "alias"
        assert (await behind.get("/v1/models/nobody")).status_code == 404
        assert behind.started[0]["model"] == NAME


async def test_before_its_engines() -> None:
    server = FakeVLLM()
    cards, server.cards = server.cards, []
    errors = [EngineDeadError("no server answers"), ConfigError("the tokenizer is not here")]
    async with gateway_before(server, connect=False, fail=errors) as behind:
        assert (await behind.get("/health")).status_code == 200
        ready = await behind.get("/ready")
        assert ready.status_code == 503
        assert int(ready.headers["retry-after"]) > 0
        assert ready.json()["error"]["code"] == "engine_dead"
        assert ready.json()["engines"] == [
            {"engine": server.url, "ready": False, "reason": ready.json()["engines"][0]["reason"]}
        ]
        for path, body in (
            (CHAT, GATED), (CHAT, {"model": NAME, "messages": []}), ("/v1/completions", {"prompt": "x"}),
            ("/v1/messages/count_tokens", {"model": NAME, "messages": []}), ("/v1/mirl/score", SCORED),
        ):  # fmt: skip
            answer = await behind.post(path, body)
            assert answer.status_code == 503, (path, answer.text)
        assert (await behind.get("/v1/models")).status_code == 503
        await until(lambda: "does not serve" in behind.gateway.engines.why_none())
        server.cards = cards
        await behind.ready()
        assert len(behind.started) == 3
        ready = await behind.get("/ready")
        assert ready.json() == {"engines": [{"engine": server.url, "ready": True}]}


async def test_after_its_engines() -> None:
    vllm_a, vllm_b = FakeVLLM(), FakeVLLM()
    engine = {"check_seconds": 0.02}
    async with gateway_before(vllm_a, vllm_b, engine=engine) as behind:
        first, second = behind.fleet.servers
        first.up = False
        ready = await behind.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["engines"][0] == {"engine": vllm_a.url, "ready": False, "reason": "it is down"}
        second.up = False
        ready = await behind.get("/ready")
        assert ready.status_code == 503
        assert "it is down" in ready.json()["error"]["message"]
        assert (await behind.get("/health")).status_code == 200
        assert (await behind.post(CHAT, {"model": NAME, "messages": []})).status_code == 503
        assert 'mirl_gateway_engines{state="down"} 2.0' in (await behind.get("/metrics")).text
        assert 'mirl_engine_state{state="dead"} 1.0' in (await behind.get("/metrics")).text
        second.up = True
        assert (await behind.get("/ready")).status_code == 200
        assert (await behind.post(CHAT, {"model": NAME, "messages": []})).status_code == 200
    assert behind.fleet.closed


async def test_with_keys_nobody_without_a_key_reads_where_the_engines_are() -> None:
    async with gateway_before(FakeVLLM(), access={"keys": "team: 0123456789abcdef-t"}) as behind:
        assert (await behind.get("/ready")).json() == {"engines": [{"engine": 0, "ready": True}]}
        behind.fleet.servers[0].up = False
        answer = await behind.get("/ready")
        assert answer.status_code == 503
        assert "127.0.0.1" not in answer.text
        assert "it is down" not in answer.text


async def test_a_stop_drains() -> None:
    server = FakeVLLM()
    server.answers[CHAT] = server.endless
    async with gateway_before(server, shutdown_seconds=0.2) as behind:
        body = {"model": NAME, "messages": [], "stream": True}
        began, lines = asyncio.Event(), []

        async def ask() -> None:
            async with behind.client() as client, client.stream("POST", CHAT, json=body) as answer:
                async for line in answer.aiter_lines():
                    began.set()
                    lines.append(line)

        asking = asyncio.create_task(ask())
        await began.wait()
        ending = asyncio.create_task(behind.gateway.life.over())
        behind.gateway.life.stop()
        refused = await behind.post(CHAT, body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert (await behind.get("/health")).status_code == 200
        assert (await behind.get("/ready")).status_code == 503
        await ending
        await asking
        *_, last, done = filter(None, lines)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert done == "data: [DONE]"
        async with asyncio.timeout(5):
            await server.left.wait()


async def test_other_origins_and_paths_behind_a_proxy() -> None:
    flags = {"allowed-origins": ["http://page"], "root-path": "/mirl"}
    async with gateway_before(FakeVLLM(), flags=flags) as behind:
        answer = await behind.get("/v1/models", headers={"origin": "http://page"})
        assert answer.headers["access-control-allow-origin"] == "http://page"
        answer = await behind.get("/v1/models", headers={"origin": "http://other"})
        assert "access-control-allow-origin" not in answer.headers
        assert (await behind.get("/mirl/v1/models")).status_code == 200
        assert (await behind.post("/mirl/v1/completions", {"model": NAME, "prompt": "x"})).status_code == 200


async def test_the_settings_reach_the_remote_engine() -> None:
    engine = {"api_key": "k", "model": "alias", "tokenizer": "/nowhere", "seconds": 7.0, "mode": "chat"}
    server = FakeVLLM()
    server.cards.append({**server.cards[0], "id": "alias"})
    async with gateway_before(server, engine=engine) as behind:
        started = dict(behind.started[0])
        assert set(started.pop("keep_special")) >= {"<description>", "</description>"}
        pool = started.pop("settings")
        assert (pool.check_seconds, pool.resolve_seconds) == (5.0, 10.0)
        assert started == {
            "urls": (server.url,), "model": "alias", "tokenizer": "/nowhere", "api_key": "k", "timeout": 7.0,
            "mode": "chat", "required": False,
        }  # fmt: skip
        assert behind.gateway.service.names == ("alias", NAME)


async def test_the_chat_mode_uses_the_plain_model_of_an_engine_that_gates() -> None:
    for mode, name in (("chat", f"{NAME}:direct"), ("tokens", NAME)):
        async with gateway_before(FakeVLLM(gates=True), engine={"mode": mode}) as behind:
            assert behind.started[0]["model"] == name
            assert behind.gateway.service.names == (NAME,)
