"""Keys and their limits before every route, on a real server and with real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from openai import AsyncOpenAI, AuthenticationError, RateLimitError
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse, Response, StreamingResponse

from mirl_server.access.authentication import CALLER
from mirl_server.handling.admission import Admission
from mirl_server.middleware.stack import AccessControl, install_middleware, watch_load
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings
from tests.unit.server.harness import Harness, question
from tests.unit.server.http.serving import serving

KEYS = {"a": "0123456789abcdef-a", "b": "0123456789abcdef-b"}


def keys(**limits: Any) -> str:
    """Key `a` with limits, and `b` without."""
    return json.dumps({"a": {"key": KEYS["a"], **limits}, "b": KEYS["b"]})


def bearer(name: str = "a") -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def guarded(app: FastAPI, text: str | None = None, window: int = 60, **access: Any) -> AccessControl:
    settings = ServerSettings.load(access={"keys": text, **access})
    made = install_middleware(app, settings)
    made.quotas._window = window
    return made


def tiny() -> FastAPI:
    """A backend: answers, streams, and a socket."""
    app = FastAPI()

    @app.api_route("/health")
    @app.api_route("/metrics")
    @app.api_route("/sleep", methods=["POST"])
    async def health() -> dict[str, str]:
        return {"a": "b"}

    @app.post("/v1/completions")
    async def complete() -> Response:
        return JSONResponse({"choices": [], "usage": {"prompt_tokens": 99, "completion_tokens": 30}})

    @app.post("/v1/slow")
    async def slow() -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(4):
                yield b'data: {"n": %d}\n\n' % number
                await asyncio.sleep(0.05)

        return StreamingResponse(chunks(), media_type="text/event-stream")

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return app


def client(app: FastAPI, **how: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", **how)


async def test_the_sdk_raises_openais_errors(server: Harness) -> None:
    guarded(server.app, keys())
    async with serving(server.app) as port:
        url = f"http://127.0.0.1:{port}/v1"
        ask: dict[str, Any] = {
            "model": "m", "messages": [question()], "extra_body": {"mirl": {"descriptions": 2, "keep": 1}},
        }  # fmt: skip
        async with AsyncOpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(AuthenticationError) as caught:
                await stranger.chat.completions.create(**ask)
            assert caught.value.code == "invalid_api_key"
            assert caught.value.response.headers["www-authenticate"] == "Bearer"
        for name in KEYS:
            async with AsyncOpenAI(base_url=url, api_key=KEYS[name], max_retries=0) as known:
                assert (await known.chat.completions.create(**ask)).choices[0].message.content == "7"
                stream = await known.chat.completions.create(**ask, stream=True)
                assert [chunk async for chunk in stream]


async def test_the_anthropic_header_opens_too(server: Harness) -> None:
    guarded(server.app, keys())
    async with client(server.app) as http:
        for headers, status in (
            ({"x-api-key": KEYS["a"]}, 200),
            ({"authorization": f"bearer  {KEYS['a']} "}, 200),
            ({"authorization": "Basic abc", "x-api-key": KEYS["a"]}, 200),
            ({"authorization": f"Basic {KEYS['a']}"}, 401),
            ({"authorization": KEYS["a"]}, 401),
            ({"authorization": "Bearer "}, 401),
            ({"authorization": f"Bearer {KEYS['a']}ä".encode("latin-1")}, 401),
            ({"x-api-key": KEYS["a"][:-1]}, 401),
            ({}, 401),
        ):
            response = await http.get("/v1/models", headers=headers)  # type: ignore[arg-type]
            assert response.status_code == status, headers
            if status == 401:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_everything_is_closed_but_what_is_listed() -> None:
    app = tiny()
    guarded(app, keys())
    async with client(app) as http:
        for path in ("/health", "/health/"):
            assert (await http.get(path)).status_code == 200
        for method, path in (
            ("GET", "/metrics"), ("POST", "/sleep"), ("GET", "/openapi.json"), ("GET", "/nowhere"),
            ("GET", "/metrics/"), ("GET", "//health"), ("GET", "/HEALTH"), ("OPTIONS", "/v1/completions"),
            ("GET", "/health%2f..%2fmetrics"), ("POST", "/v1/completions"),
        ):  # fmt: skip
            assert (await http.request(method, path)).status_code == 401, path
    other = tiny()
    guarded(other, keys(), open_paths=("/metrics",))
    async with client(other) as http:
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/health")).status_code == 401


async def test_under_a_prefix_the_same_paths_are_open() -> None:
    app = FastAPI(root_path="/api")
    app.get("/health")(lambda: "")
    guarded(app, keys())
    async with client(app) as http:
        assert (await http.get("/api/health")).status_code == 200
        assert (await http.get("/api/docs")).status_code == 401


@pytest.mark.parametrize(
    ("path", "headers", "first"),
    [
        ("/v1/realtime", [(b"x-api-key", KEYS["a"].encode())], {"type": "websocket.accept"}),
        ("/v1/realtime", [], {"type": "websocket.close", "code": 1008}),
        # Open to GET; a socket under the same path is another route, and nobody said that it is open.
        ("/health", [], {"type": "websocket.close", "code": 1008}),
        ("/health", [(b"x-api-key", b"wrong")], {"type": "websocket.close", "code": 1008}),
    ],
)
async def test_web_sockets_are_closed_too(
    path: str, headers: list[tuple[bytes, bytes]], first: dict[str, Any]
) -> None:
    app = tiny()
    refused: list[tuple[str, str]] = []
    guarded(app, keys()).quotas.refused = lambda reason, key: refused.append((reason, key))
    inbox: list[Any] = [{"type": "websocket.connect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return inbox.pop() if inbox else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": headers, "subprotocols": [], "state": {}, "scheme": "ws",
        "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0].items() >= first.items()
    closed = first["type"] == "websocket.close"
    assert refused == ([("key", "anonymous")] if closed else [])
    assert not closed or "API key" in sent[0]["reason"]


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
async def test_refusals_of_bad_keys_are_counted(headers: dict[str, str]) -> None:
    app, metrics = tiny(), Metrics(CollectorRegistry())
    watch_load(metrics, Admission(), guarded(app, keys()).quotas)
    count = metrics.refusals.labels("invalid_api_key")._value.get
    async with client(app) as http:
        assert (await http.get("/metrics", headers=bearer())).status_code == 200
        assert (await http.get("/health", headers=headers)).status_code == 200
        assert count() == 0
        for number in (1, 2):
            assert (await http.get("/metrics", headers=headers)).status_code == 401
            assert count() == number


async def test_a_refusal_is_readable_across_origins_and_a_preflight_needs_no_key() -> None:
    app = tiny()
    guarded(app, keys())
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["*"])
    asking = {"origin": "https://a.example", "access-control-request-method": "POST"}
    async with client(app) as http:
        assert (await http.options("/v1/completions", headers=asking)).status_code == 200
        response = await http.post("/v1/completions", headers={"origin": "https://a.example"})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == "https://a.example"


async def test_rotation_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a: {KEYS['a']}")
    app = tiny()
    made = guarded(app, key_file=file)
    made.keyring._interval = 0
    async with client(app) as http:
        assert (await http.get("/metrics", headers=bearer("a"))).status_code == 200
        assert (await http.get("/metrics", headers=bearer("b"))).status_code == 401
        file.write_text(f"b: {KEYS['b']}")
        assert (await http.get("/metrics", headers=bearer("b"))).status_code == 200
        assert (await http.get("/metrics", headers=bearer("a"))).status_code == 401


async def test_reading_is_not_counted() -> None:
    app = tiny()
    guarded(app, keys(requests_per_minute=2, concurrent=2))
    async with client(app, headers=bearer()) as http:
        left = [
            (await http.request(method, "/v1/completions")).headers["x-ratelimit-remaining-requests"]
            for method in ("GET", "HEAD", "OPTIONS", "POST", "GET", "PUT")
        ]
    assert left == ["2", "2", "2", "1", "1", "0"]


async def test_without_keys_everybody_may_ask_under_the_default_limits() -> None:
    app = tiny()
    guarded(app, limits={"requests_per_minute": 1})
    async with client(app) as http:
        assert (await http.post("/sleep")).status_code == 200
        assert (await http.post("/sleep")).status_code == 429
        assert (await http.post("/sleep", headers=bearer())).status_code == 429


async def test_requests_per_minute(now: list[float]) -> None:
    app = tiny()
    refused: list[tuple[str, str]] = []
    made = guarded(app, keys(requests_per_minute=2))
    made.quotas.refused = lambda reason, key: refused.append((reason, key))
    async with client(app, headers=bearer()) as http:
        first = await http.post("/sleep")
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "60.000s"
        assert (await http.post("/sleep")).headers["x-ratelimit-remaining-requests"] == "0"
        now[0] += 21
        over = await http.post("/sleep")
        assert over.status_code == 429
        assert over.json()["error"]["code"] == "rate_limit_exceeded"
        assert over.headers["retry-after"] == "39"
        assert over.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await http.get("/metrics")).status_code == 200
        other = await http.post("/sleep", headers=bearer("b"))
        assert (other.status_code, "x-ratelimit-limit-requests" in other.headers) == (200, False)
        now[0] += 39
        assert (await http.post("/sleep")).status_code == 200
    assert refused == [("requests", "a")]


async def test_the_sdk_retries_after_a_429(server: Harness) -> None:
    guarded(server.app, keys(requests_per_minute=1), window=1)
    ask: dict[str, Any] = {"model": "m:direct", "messages": [{"role": "user", "content": "hi"}]}
    async with serving(server.app) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEYS["a"], max_retries=0) as known:
            await known.chat.completions.create(**ask)
            with pytest.raises(RateLimitError):
                await known.chat.completions.create(**ask)
            await known.with_options(max_retries=2).chat.completions.create(**ask)


@pytest.mark.parametrize(("path", "tokens"), [("/v1/completions", 30), ("/v1/slow", 4)])
async def test_tokens_are_read_off_the_backends_answers(now: list[float], path: str, tokens: int) -> None:
    app = tiny()
    guarded(app, keys(tokens_per_minute=tokens))
    async with client(app, headers=bearer()) as http:
        first = await http.post(path)
        assert first.headers["x-ratelimit-remaining-tokens"] == str(tokens)
        second = await http.post(path)
        assert second.status_code == 429
        assert second.headers["x-ratelimit-remaining-tokens"] == "0"
        assert second.headers["retry-after"] == "60"
        now[0] += 60
        assert (await http.post(path)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gated_answers_tokens_are_counted_with_every_branch(server: Harness, stream: bool) -> None:
    guarded(server.app, keys(tokens_per_minute=1000))
    body = {"messages": [question()], "mirl": {"descriptions": 2, "keep": 1}, "stream": stream}
    async with client(server.app, headers=bearer()) as http:
        await http.post("/v1/chat/completions", json=body)
        left = (await http.post("/v1/chat/completions", json=body)).headers["x-ratelimit-remaining-tokens"]
    assert server.engine.sampled_tokens > 0
    assert int(left) == 1000 - server.engine.sampled_tokens // 2


async def test_requests_at_the_same_time() -> None:
    app = tiny()
    made = guarded(app, keys(concurrent=2))
    async with client(app, headers=bearer()) as http:
        statuses = [
            response.status_code
            for response in await asyncio.gather(*(http.post("/v1/slow") for _ in range(5)))
        ]
        assert sorted(statuses) == [200, 200, 429, 429, 429]
        assert (await http.post("/v1/slow")).status_code == 200
    assert not made.quotas.running


async def test_the_caller_reaches_the_routes_and_salts_by_key_whatever_the_header(server: Harness) -> None:
    guarded(server.app, keys())
    text = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with client(server.app) as http:
        for headers in (bearer("a"), {"x-api-key": KEYS["a"]}, bearer("b")):
            await http.post("/v1/chat/completions", json=text, headers=headers)
    salts = [body["cache_salt"] for body in server.handed]
    assert salts[0] == salts[1] != salts[2]


def test_a_label_is_a_name_never_a_key() -> None:
    app = tiny()
    seen: list[Any] = []

    class Look:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope.get(CALLER))
            await self.app(scope, receive, send)

    app.add_middleware(Look)
    guarded(app, keys())

    async def ask() -> None:
        async with client(app) as http:
            await http.get("/metrics", headers=bearer("a"))
            await http.get("/health")

    asyncio.run(ask())
    assert [caller and caller.name for caller in seen] == ["a", None]
    assert KEYS["a"] not in repr(seen)
