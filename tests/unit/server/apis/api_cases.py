"""What the tests of the other APIs share: a real uvicorn over the fake engine, and a client that leaves."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from tests.unit.server.harness import Harness, data_url

SMALL: dict[str, Any] = {"descriptions": 2, "keep": 1}
PNG = data_url()


def input_image(url: str = PNG) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url, "detail": "auto"}


def responses_body(**fields: Any) -> dict[str, Any]:
    """A gated request of the Responses API."""
    content = [{"type": "input_text", "text": "which digit?"}, input_image()]
    return {"model": "m", "input": [{"role": "user", "content": content}], "mirl": SMALL} | fields


def image_block(url: str = PNG) -> dict[str, Any]:
    head, data = url.split(",")
    media_type = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def messages_body(**fields: Any) -> dict[str, Any]:
    """A gated request of the Anthropic API."""
    content = [image_block(), {"type": "text", "text": "which digit?"}]
    body = {
        "model": "m",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": content}],
        "mirl": SMALL,
    }
    return body | fields


BODIES = {"/v1/responses": responses_body, "/v1/messages": messages_body}


async def post(harness: Harness, path: str, body: dict[str, Any], **headers: str) -> Any:
    async with harness.client() as client:
        return await client.post(path, json=body, headers=headers)


def named_events(text: str) -> list[dict[str, Any]]:
    """The data of a finished stream whose events have names; each must be the data's type."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert events[-1]["type"] == name.removeprefix("event: ")
    return events


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """The app behind a real uvicorn; yields its URL."""
    config = uvicorn.Config(app, lifespan="off", ws="none", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # Not `serve`, which would take over the test process's signals.
        task = asyncio.create_task(server._serve([listening]))
        try:
            async with asyncio.timeout(20):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def leaving(harness: Harness, path: str, body: dict[str, Any]) -> AsyncIterator[list[Any]]:
    """A request whose client hangs up at the end of the context, and is then over; what it was sent."""
    leave = asyncio.Event()
    inbox = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if inbox:
            return inbox.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("t", 80), "client": ("c", 1), "state": {},
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    request = asyncio.create_task(harness.app(scope, receive, send))
    async with asyncio.timeout(5):
        yield sent
        leave.set()
        await request


async def abandon(harness: Harness, path: str, body: dict[str, Any], running: int) -> list[Any]:
    """Send a request, hang up once `running` sequences run; what was sent until then."""
    async with leaving(harness, path, body) as sent:
        while harness.engine.running < running:  # noqa: ASYNC110 - the fake engine has no event for it
            await asyncio.sleep(0.01)
    return sent
