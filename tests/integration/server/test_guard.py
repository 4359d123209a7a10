"""Keys, limits and admission on the real `mirl-serve`: vLLM's own routes and flags included."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from openai import APIStatusError, AuthenticationError

from mirl_server.settings.server import ServerSettings
from mirl_server.vllm.endpoints import GENERATING
from mirl_server.vllm.flags import close_without_plugin, parse_vllm
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME, GuardedServer, key_lines
from tests.helpers.waiting import wait_until

OURS, NEXT, THEIRS = "0123456789abcdef-ours", "0123456789abcdef-next", "theirs"
CLOSED = ("/v1/models", "/openapi.json", "/docs", "/version", "/load", "/tokenize", "/nowhere")


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """vLLM's SageMaker part sets the root's level, for every test that would come after."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


async def test_vllms_app_stands_behind_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app as vLLM builds it, without an engine behind it: what is let in finds nothing there."""
    from vllm.entrypoints.launchers.app import build_app

    monkeypatch.setenv("VLLM_PLUGINS", "mirl")
    args = parse_vllm(["--api-key", THEIRS, "--model", "none"])
    assert args.allowed_origins == []
    args.mirl = ServerSettings.load(access={"keys": f"ours: {OURS}"})
    app = build_app(args, ("generate",), None)
    app.state.mirl = None
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in CLOSED:
            assert (await client.get(path)).status_code == 401, path
            for key in (OURS, THEIRS):
                answer = await client.get(path, headers={"authorization": f"Bearer {key}"})
                assert answer.status_code != 401, path
        assert (await client.get("/ready")).status_code != 401


# Posted to, and nothing is generated: reading, maintenance, requests of other processes.
IDLE = {
    "/tokenize", "/detokenize", "/ping", "/v1/responses/{response_id}/cancel", "/v1/messages/count_tokens",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/v1/chat/completions/render", "/v1/messages/render",
    "/v1/completions/render", "/v1/responses/render", "/v1/chat/completions/derender",
    "/v1/completions/derender", "/inference/v1/abort_requests",
}  # fmt: skip
FLEET = {"/inference/v1/generate"}  # off by default
OWN = {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/mirl/score", "/v1/mirl/describe"}


def test_every_endpoint_that_generates_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's app with all that a server of a model that generates can have: nothing new has come to it."""
    from vllm.entrypoints.launchers.app import build_app

    monkeypatch.setenv("VLLM_PLUGINS", "mirl")
    args = parse_vllm(["--enable-scale-out", "--model", "none"])
    args.mirl = ServerSettings.load()
    app = build_app(args, ("generate", "transcription"), None)
    posted = {route.path for route in app.routes if isinstance(route, APIRoute) and "POST" in route.methods}
    assert posted - IDLE - OWN - FLEET == set(GENERATING) - {
        "/cohere/v2/chat"
    }  # which needs a package of its own


def test_without_the_plugin_vllms_own_check_lets_nobody_in() -> None:
    args = parse_vllm(["--model", "none"])
    close_without_plugin(args, ServerSettings.load())
    assert not args.api_key
    close_without_plugin(args, ServerSettings.load(access={"keys": f"ours: {OURS}"}))
    (unknown,) = args.api_key
    assert unknown != OURS
    assert len(unknown) == 64


def is_let_in(server: GuardedServer, key: str) -> bool:
    answer = httpx.get(f"{server.url}/v1/models", headers={"x-api-key": key})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def test_keys_are_rotated_and_never_logged(guarded: GuardedServer) -> None:
    for key, other in ((NEXT, OURS), (OURS, NEXT)):
        guarded.key_file.write_text(key_lines({**guarded.keys, "ours": key}))
        wait_until(partial(is_let_in, guarded, key), 5)
        assert httpx.get(f"{guarded.url}/v1/models", headers={"x-api-key": other}).status_code == 401
    log = guarded.log.read_text()
    assert OURS not in log
    assert NEXT not in log
    assert f"'{THEIRS}'" not in log


def test_closed_but_for_keys(guarded: GuardedServer) -> None:
    server = guarded
    for path in CLOSED:
        refused = httpx.get(server.url + path)
        assert refused.status_code == 401, path
        assert refused.json()["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/ready", "/metrics"):
        assert httpx.get(server.url + path).status_code == 200
    with pytest.raises(AuthenticationError):
        server.client(api_key="strange").models.list()
    for key in (OURS, THEIRS):
        client = server.client(api_key=key)
        assert client.models.list().data
        for name, extra in ((NAME, small_fan_out()), (f"{NAME}:direct", {})):
            ask = {"model": name, "messages": image_question(), "max_tokens": 24, "extra_body": extra}
            assert client.chat.completions.create(**ask).choices


def test_limits_on_what_is_sent(guarded: GuardedServer) -> None:
    server = guarded
    headers = {"authorization": f"Bearer {OURS}", "content-type": "application/json"}
    large = httpx.post(f"{server.url}/v1/completions", headers=headers, content=b"x" * 2_000_001)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")

    def parts() -> list[bytes]:
        return [b"x" * 100_000] * 30

    chunked = httpx.post(f"{server.url}/tokenize", headers=headers, content=iter(parts()))
    assert chunked.status_code == 413
    many = httpx.get(f"{server.url}/health", headers={f"h{number}": "x" for number in range(200)})
    assert (many.status_code, many.json()["error"]["code"]) == (431, "request_too_large")
    crossing = httpx.get(f"{server.url}/health", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in crossing.headers
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nhost")
        assert b" 408 " in slow.recv(4096)


async def test_more_than_runs_and_waits(guarded: GuardedServer) -> None:
    """The rest receive 429 with a time, everybody else is answered."""
    async with guarded.async_client().with_options(api_key=OURS) as client:
        requests = (
            client.chat.completions.create(
                model=NAME, messages=image_question(seed=number), max_tokens=48, extra_body=small_fan_out()
            )
            for number in range(80)
        )
        ends = await asyncio.gather(*requests, return_exceptions=True)
    refused = [end for end in ends if isinstance(end, APIStatusError)]
    assert all(
        error.status_code == 429 and int(error.response.headers["retry-after"]) >= 1 for error in refused
    )
    assert refused
    assert len(ends) - len(refused) >= 20
    assert not [end for end in ends if isinstance(end, BaseException) and end not in refused]


def test_keys_share_no_prefix_cache(guarded: GuardedServer) -> None:
    """By what vLLM says that it read from its cache, on each way to it; one key's second request does hit."""
    text = "how many digits are there and what do they come to " * 8
    ways: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"prompt": text, "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text + "now"}], "max_tokens": 1}),
        ("/v1/chat/completions/batch", {"messages": [[{"role": "user", "content": text}]], "max_tokens": 1}),
    ]
    for path, body in ways:
        read = []
        for name in ("one", "one", "two"):
            answer = httpx.post(
                guarded.url + path,
                json={"model": NAME, **body},
                headers={"x-api-key": guarded.keys[name]},
                timeout=60,
            )
            assert answer.status_code == 200, answer.text
            read.append((answer.json()["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0))
        if "batch" not in path:  # which says nothing of its cache
            assert read[1] > 0 == read[0] == read[2], (path, read)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": "URL", "detail": "auto"},
            {"type": "input_text", "text": "?"}]}]}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "url", "url": "URL"}}, {"type": "text", "text": "?"}]}]}),
        ("/v1/chat/completions/batch", {"messages": [[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "URL"}}, {"type": "text", "text": "?"}]}]]}),
        ("/invocations", {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "URL"}}, {"type": "text", "text": "?"}]}]}),
    ],
)  # fmt: skip
def test_vllms_own_fetcher_fetches_nothing(guarded: GuardedServer, path: str, body: dict[str, Any]) -> None:
    """What MIRL doesn't fetch itself: no domain is allowed there by default."""
    with socket.create_server(("127.0.0.1", 0)) as origin:
        url = f"http://127.0.0.1:{origin.getsockname()[1]}/a.png"
        name = NAME if path in ("/invocations", "/v1/chat/completions/batch") else f"{NAME}:direct"
        content = json.dumps({"model": name, **body}).replace('"URL"', json.dumps(url))
        headers = {"x-api-key": guarded.keys["one"], "content-type": "application/json"}
        answer = httpx.post(guarded.url + path, content=content, headers=headers, timeout=60)
        assert answer.status_code == 400, answer.text
        # A connection that was made before the answer would wait here to be accepted.
        origin.setblocking(False)
        with pytest.raises(BlockingIOError):
            origin.accept()
