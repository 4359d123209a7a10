"""The error object of each API, from the guard, the protocol, the router and the backend."""

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

from mirl_core.errors import EngineError, ImageError
from mirl_server.http.errors import error_object, is_messages
from mirl_server.middleware.error_shapes import ErrorShapes
from mirl_server.middleware.request_log import RequestLog
from mirl_server.middleware.stack import install_middleware
from mirl_server.observability.logs import LogSettings
from mirl_server.settings.server import ServerSettings
from tests.unit.server.harness import Harness
from tests.unit.server.http.serving import answer, connection, serving

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


def request_body(**fields: Any) -> Any:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}], **fields}


@pytest.mark.parametrize(
    ("key", "fields", "raised", "kind"),
    [
        ("wrong", {}, anthropic.AuthenticationError, "authentication_error"),
        (KEY, {"system": "x" * 6000}, anthropic.RequestTooLargeError, "request_too_large"),
        (SPENT, {}, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
async def test_the_anthropic_sdk_says_why_the_guard_refuses(
    server: Harness, key: str, fields: Any, raised: type[anthropic.APIStatusError], kind: str
) -> None:
    install_middleware(server.app, ServerSettings.load(access={"keys": KEYS}, http=HTTP))
    async with serving(server.app) as port:
        url = f"http://127.0.0.1:{port}"
        async with AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
            with contextlib.suppress(anthropic.BadRequestError):
                if key == SPENT:
                    await client.post("/v1/messages", cast_to=object, body=request_body())
            with pytest.raises(raised) as caught:
                await client.post("/v1/messages", cast_to=object, body=request_body(**fields))
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
        response = await client.request(method, path)
    assert response.status_code == status
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert "secret" not in response.text
    if path.endswith("count_tokens"):
        assert body["error"]["message"] == "body.max_tokens: no"
    if status == 405:
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nowhere", 404), ("GET", "/v1/completions", 405)]
)
async def test_what_nobody_has_is_refused_in_openais_shape(method: str, path: str, status: int) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(backend()), base_url="http://test", headers={"x-api-key": KEY}
    ) as client:
        response = await client.request(method, path)
        vllms = await client.post("/v1/completions")
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["type"] == "invalid_request_error"
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
        code, body = await answer(reader)
    assert code == status
    assert (json.loads(body)["type"], json.loads(body)["error"]["type"]) == ("error", kind)


TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error",
    431: "request_too_large", 503: "overloaded_error", 504: "timeout_error",
    # Others, by their hundred.
    405: "invalid_request_error", 422: "invalid_request_error", 499: "invalid_request_error",
    500: "api_error", 501: "api_error", 502: "api_error",
}  # fmt: skip


async def shaped(
    path: str, status: int, body: bytes, kind: str = "application/json", parts: int = 1, **scope: Any
) -> tuple[int, dict[str, str], bytes, int]:
    """Status, headers, body and number of body messages of an answer on its way out."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = str(len(body)).encode()
        headers = [(b"content-type", kind.encode()), (b"content-length", length), (b"x", b"y")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        size = len(body) // parts or 1
        for number in range(parts):
            last = number == parts - 1
            piece = body[number * size :] if last else body[number * size : (number + 1) * size]
            await send({"type": "http.response.body", "body": piece, "more_body": not last})

    await ErrorShapes(app)({"type": "http", "path": path, **scope}, None, send)  # type: ignore[arg-type]
    start, *bodies = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(message["body"] for message in bodies), len(bodies)


@pytest.mark.parametrize("status", sorted(TYPES))
@pytest.mark.parametrize("parts", [1, 3])
async def test_each_status_has_its_type(status: int, parts: int) -> None:
    for error, said in ((VLLMS, "body.max_tokens: no"), ({"detail": "no"}, "no"), ({"detail": [1]}, "[1]")):
        body = json.dumps(error).encode()
        code, headers, out, count = await shaped("/v1/messages", status, body, parts=parts)
        assert json.loads(out) == {"type": "error", "error": {"type": TYPES[status], "message": said}}
        assert (code, headers["content-length"], headers["x"], count) == (status, str(len(out)), "y", 1)
        if "detail" in error:
            _, _, out, _ = await shaped("/v1/completions", status, body, parts=parts)
            kind = "invalid_request_error" if status < 500 else "server_error"
            assert json.loads(out) == {"error": {"message": said, "type": kind, "param": None, "code": None}}


@pytest.mark.parametrize(
    ("path", "status", "kind", "content"),
    [
        ("/v1/messages", 200, "application/json", {"detail": "no"}),
        ("/v1/messages", 399, "application/json", {"detail": "no"}),
        ("/v1/messages", 400, "text/plain", {"detail": "no"}),
        ("/v1/messages", 400, "application/json", {"error": "no"}),
        ("/v1/messages", 400, "application/json", ["detail"]),
        ("/v1/messages", 400, "application/json", {"type": "error", "error": {"type": "not_found_error"}}),
        ("/v1/completions", 400, "application/json", {"error": {"message": "no"}}),
    ],
)
async def test_what_passes_untouched(path: str, status: int, kind: str, content: Any) -> None:
    body = json.dumps(content).encode()
    for parts in (1, 2):
        code, headers, out, _ = await shaped(path, status, body, kind, parts)
        assert (code, headers["content-length"], out) == (status, str(len(body)), body)
    assert (await shaped(path, status, b"{", kind))[2] == b"{"


async def test_an_error_without_a_type_passes_untouched() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404})
        await send({"type": "http.response.body", "body": b'{"detail":"no"}'})

    await ErrorShapes(app)({"type": "http", "path": "/v1/messages"}, None, send)  # type: ignore[arg-type]
    assert [message.get("body") for message in sent] == [None, b'{"detail":"no"}']


async def test_a_prefix_is_no_part_of_the_path() -> None:
    body = json.dumps({"detail": "no"}).encode()
    _, _, out, _ = await shaped("/api/v1/messages", 404, body, root_path="/api")
    assert json.loads(out)["error"]["type"] == "not_found_error"
    param = ImageError("bad", param="messages[0]")
    assert error_object(param, "/v1/messages")["error"]["message"] == "messages[0]: bad"
    named = ImageError("messages[0] is bad", param="messages[0]")
    assert error_object(named, "/v1/messages")["error"]["message"] == "messages[0] is bad"


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
