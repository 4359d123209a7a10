"""The line of each request: which paths have none, and the body of an unexpected error."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.types import Message, Receive, Scope, Send

from mirl_server.middleware.request_log import RequestLog
from mirl_server.observability.logs import LogSettings


async def test_paths_are_those_below_the_root_path(caplog: pytest.LogCaptureFixture) -> None:
    """Probes stay quiet behind a proxy's prefix, and an unexpected error has its API's form."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/api/v1/messages":
            raise RuntimeError("boom")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the body is the app's to read")

    caplog.set_level(logging.INFO)
    shared = {"type": "http", "method": "GET", "headers": [], "root_path": "/api"}
    for path in ("/api/health", "/api/v1/models", "/api/v1/messages"):
        scope = {**shared, "path": path, "state": {}}
        await RequestLog(app, LogSettings(format="json"))(scope, receive, send)
    lines = [vars(record)["path"] for record in caplog.records if record.getMessage() == "request"]
    assert lines == ["/api/v1/models", "/api/v1/messages"]
    error = json.loads(sent[-1]["body"])
    assert (error["type"], error["error"]["message"]) == ("error", "internal error")
