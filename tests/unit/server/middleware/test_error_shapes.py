"""The error object of each API, whoever refuses: the guard, the protocol, the router or the backend."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from mirl_core.errors import EngineError
from mirl_server.middleware.error_shapes import error_object, is_messages
from mirl_server.middleware.request_log import RequestLog
from mirl_server.middleware.stack import install_middleware
from mirl_server.observability.logs import LogSettings
from mirl_server.settings.server import ServerSettings
from tests.unit.server.conftest import Harness
from tests.unit.server.serving import answer, connection, serving

KEY, SPENT = "0123456789abcdef-a", "0123456789abcdef-b"
KEYS = json.dumps({"a": KEY, "b": {"key": SPENT, "requests_per_minute": 1}})
HTTP = {"max_body_bytes": 5000, "body_seconds": 0.3, "header_seconds": 0.3}
HEAD = f"POST /v1/messages HTTP/1.1\r\nx-api-key: {KEY}\r\n".encode()
VLLMS = {"error": {"message": "no", "type": "BadRequestError", "param": "body.max_tokens", "code": 400}}


def backend() -> FastAPI:
    """An app as vLLM's is, behind the guard: its errors are OpenAI's everywhere."""
    app = FastAPI()

    @app.post("/v1/messages/count_tokens")
    @app.post("/v1/completions")
    async def refuses() -> Response:
        return JSONResponse(VLLMS, 400)

    @app.post("/v1/messages")
    async def translated() -> Response:
        return JSONResponse({"type": "error", "error": {"type": "BadRequestError", "message": "no"}}, 400)

    @app.post("/v1/messages/batches")
    async def fails() -> Response:
        raise RuntimeError("a secret")

    install_middleware(app, ServerSettings.load(access={"keys": KEYS}, http=HTTP))
    app.add_middleware(RequestLog, settings=LogSettings())
    return app


def asked(**fields: Any) -> Any:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}], **fields}


@pytest.mark.parametrize(
    ("key", "fields", "raised", "kind"),
    [
        ("wrong", {}, anthropic.AuthenticationError, "authentication_error"),
        (KEY, {"system": "x" * 6000}, anthropic.RequestTooLargeError, "request_too_large"),
        (SPENT, {}, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
async def test_the_anthropic_sdk_hears_why_the_guard_refuses(
    server: Harness, key: str, fields: Any, raised: type[anthropic.APIStatusError], kind: str
) -> None:
    install_middleware(server.app, ServerSettings.load(access={"keys": KEYS}, http=HTTP))
    async with serving(server.app) as port:
        url = f"http://127.0.0.1:{port}"
        async with AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
            with contextlib.suppress(anthropic.BadRequestError):
                if key == SPENT:
                    await client.post("/v1/messages", cast_to=object, body=asked())
            with pytest.raises(raised) as caught:
                await client.post("/v1/messages", cast_to=object, body=asked(**fields))
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == caught.value.type == kind
    if kind == "rate_limit_error":
        assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/v1/messages", 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", 400, "invalid_request_error"),
        ("POST", "/v1/messages/nowhere", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 500, "api_error"),
    ],
)
async def test_the_backends_errors_are_the_apis_own(method: str, path: str, status: int, kind: str) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(backend()), base_url="http://test", headers={"x-api-key": KEY}
    ) as client:
        told = await client.request(method, path)
    assert told.status_code == status
    body = told.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert "secret" not in told.text
    if path.endswith("count_tokens"):
        assert body["error"]["message"] == "body.max_tokens: no"
    if status == 405:
        assert told.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nowhere", 404), ("GET", "/v1/completions", 405)]
)
async def test_what_nobody_has_is_refused_in_openais_shape(method: str, path: str, status: int) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(backend()), base_url="http://test", headers={"x-api-key": KEY}
    ) as client:
        told = await client.request(method, path)
        vllms = await client.post("/v1/completions")
    assert told.status_code == status
    assert set(told.json()["error"]) == {"message", "type", "param", "code"}
    assert told.json()["error"]["type"] == "invalid_request_error"
    assert vllms.json() == VLLMS


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (HEAD + b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{", 408, "timeout_error"),
        (b"POST /v1/messages?a=b HTTP/1.1\r\nslow", 408, "timeout_error"),
        (b"POST /v1/messages HTTP/1.1\r\nh: " + b"x" * 70_000, 431, "request_too_large"),
    ],
    ids=["a slow body", "slow headers", "large headers"],
)  # fmt: skip
async def test_refusals_of_the_connection_too(server: Harness, sent: bytes, status: int, kind: str) -> None:
    # Where headers are to be too large they must not be too slow before.
    limits = {**HTTP, "header_seconds": 5} if status == 431 else HTTP
    settings = ServerSettings.load(access={"keys": KEYS}, http=limits)
    install_middleware(server.app, settings)
    async with serving(server.app, settings.http) as port, connection(port) as (reader, writer):
        writer.write(sent)
        told, body = await answer(reader)
    assert told == status
    assert (json.loads(body)["type"], json.loads(body)["error"]["type"]) == ("error", kind)


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        ("/v1/messages", True), ("/v1/messages/count_tokens", True), ("/v1/messagesx", False),
        ("/v1/chat/completions", False), ("/", False), ("", False),
    ],
)  # fmt: skip
def test_which_paths_are_the_anthropic_apis(path: str, messages: bool) -> None:
    assert is_messages(path) is messages
    assert (error_object(EngineError("no"), path).get("type") == "error") is messages
