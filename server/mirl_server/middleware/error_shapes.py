"""Each API's own error object, whoever refuses a request: the guard, a route, the backend or the router.

Clients of `/v1/messages` know the Anthropic API's error object and no other; everybody else expects OpenAI's.
Whatever stands before the routes, or behind them, need not know which API it refuses.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_server.http.errors import ANTHROPIC_TYPES, is_messages, messages_error_object


class ErrorShapes:
    """ASGI middleware: every JSON error on its way out is its API's error object.

    What is one already passes as it is. Streams and answers pass untouched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        await self.app(scope, receive, _Shaping(is_messages(path), send).send)


class _Shaping:
    """One request's answer on its way out."""

    def __init__(self, messages: bool, send: Send) -> None:
        self._messages = messages
        self._send = send
        self._start: Message | None = None
        self._body = b""
        self._announced: int | None = None

    async def send(self, message: Message) -> None:
        """Hold an error back until all of it is there, which may be before its last message."""
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("application/json"):
                length = headers.get("content-length", "")
                self._announced = int(length) if length.isdecimal() else None
                self._start = message
                return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        more = bool(message.get("more_body", False))
        if more and (self._announced is None or len(self._body) < self._announced):
            return
        start, self._start = self._start, None
        body = _shaped(self._body, start["status"], self._messages)
        headers = MutableHeaders(scope=start)
        headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _shaped(body: bytes, status: int, messages: bool) -> bytes:
    try:
        told = json.loads(body)
    except ValueError:
        return body
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        if not messages or (told.get("type") == "error" and error.get("type") in ANTHROPIC_TYPES.values()):
            return body
        message, param = error.get("message"), error.get("param")
    elif isinstance(told, dict) and "detail" in told:
        # FastAPI's own, of a path or a method that nobody has.
        message, param = told["detail"], None
    else:
        return body
    message = message if isinstance(message, str) else json.dumps(message)
    if messages:
        return json.dumps(messages_error_object(status, message, param)).encode()
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
