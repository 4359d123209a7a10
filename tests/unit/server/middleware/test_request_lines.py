"""Request lines as proxies and clients write them: HEAD, and a slash behind a path."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import JSONResponse, StreamingResponse

from mirl_server.middleware.request_lines import RequestLines
from mirl_server.middleware.stack import install_middleware
from mirl_server.settings.server import ServerSettings
from tests.unit.server.harness import Harness, question
from tests.unit.server.http.serving import answer, connection, serving

KEY = "0123456789abcdef-a"


@pytest.fixture
def guarded(server: Harness) -> Harness:
    """The routes and a health check as vLLM's, behind all layers, with a key."""

    async def health() -> JSONResponse:
        return JSONResponse({})

    async def parts() -> StreamingResponse:
        async def chunks() -> Any:
            yield "one"
            yield "two"

        return StreamingResponse(chunks())

    server.app.add_api_route("/health", health)
    server.app.add_api_route("/parts", parts)
    settings = ServerSettings.load(access={"keys": f'{{"a": "{KEY}"}}', "open_paths": ["/health", "/ready"]})
    install_middleware(server.app, settings)
    return server


GETS = ("/health", "/ready", "/v1/models", "/v1/models/m", "/parts", "/docs", "/openapi.json")


@pytest.mark.parametrize("path", GETS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("slash", ["", "/", "//"])
async def test_what_is_there_is_served(guarded: Harness, path: str, method: str, slash: str) -> None:
    headers = {} if path in ("/health", "/ready") else {"authorization": f"Bearer {KEY}"}
    async with guarded.client() as client:
        usual = await client.get(path, headers=headers)
        response = await client.request(method, path + slash, headers=headers)
        # A key is needed by whatever form of the path.
        bare = await client.request(method, path + slash)
    assert (usual.status_code, response.status_code) == (200, 200)
    assert response.headers.get("content-type") == usual.headers.get("content-type")
    assert response.content == (b"" if method == "HEAD" else usual.content)
    assert bare.status_code == (401 if headers else 200)


async def test_requests_with_a_body_too(guarded: Harness) -> None:
    body = {"model": "m", "messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
    headers = {"authorization": f"Bearer {KEY}"}
    async with guarded.client() as client:
        response = await client.post("/v1/chat/completions/", json=body, headers=headers)
        head = await client.head("/v1/chat/completions", headers=headers)
        nowhere = await client.get("/v1/nowhere/", headers=headers)
    assert response.status_code == 200
    assert (head.status_code, head.content) == (405, b"")
    assert nowhere.status_code == 404


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/a/", "", "/a"), ("/a", "", "/a"), ("/", "", "/"), ("//", "", "//"), ("/api/", "/api", "/api/"),
        ("/api/a/", "/api", "/api/a"), ("/a/b//", "", "/a/b"),
    ],
)  # fmt: skip
async def test_paths(path: str, root: str, seen: str) -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    for method in ("GET", "HEAD", "POST"):
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": root}
        await RequestLines(app)(scope, None, None)  # type: ignore[arg-type]
        assert (scopes[-1]["path"], scopes[-1]["raw_path"].decode()) == (seen, seen)
        assert scopes[-1]["method"] == ("POST" if method == "POST" else "GET")
        assert scope["path"] == path


async def test_other_connections_pass() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope == {"type": "websocket", "path": "/a/"}

    await RequestLines(app)({"type": "websocket", "path": "/a/"}, None, None)  # type: ignore[arg-type]


async def test_a_connection_stays_in_step_after_a_head(guarded: Harness) -> None:
    async with serving(guarded.app) as port, connection(port) as (reader, writer):
        writer.write(b"HEAD /health/ HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert await answer(reader) == (200, b"{}")


async def test_without_the_layers_the_routes_answer_too(server: Harness) -> None:
    async with server.client() as client:
        assert (await client.get("/v1/models/")).json() == (await client.get("/v1/models")).json()
        for path in ("/ready", "/v1/models", "/v1/models/m"):
            assert (await client.head(path)).status_code == 200
