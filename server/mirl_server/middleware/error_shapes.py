"""The layer that gives each JSON error the form of its API, whether middleware, route or backend sent it.

It also leaves out what no error may quote: pictures, and the source files of a library.

Clients of `/v1/messages` know only the Anthropic API's error object; all other clients expect OpenAI's. With
this layer the code before and behind the routes need not know which API it refuses.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_server.http.error_words import clean
from mirl_server.http.errors import ANTHROPIC_TYPES, is_messages, messages_error_object
from mirl_server.http.scope import route_path


class ErrorShapes:
    """ASGI middleware that rewrites each JSON error as its API's error object.

    Errors in the right form, other responses and streams pass unchanged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _ErrorResponse(is_messages(route_path(scope)), send).send)


class _ErrorResponse:
    """One request's response, held back and rewritten if it is a JSON error."""

    def __init__(self, messages: bool, send: Send) -> None:
        self._messages = messages
        self._send = send
        self._start: Message | None = None
        self._body = b""
        self._content_length: int | None = None

    async def send(self, message: Message) -> None:
        """Send a message; hold an error back until its body is complete (maybe before the last message)."""
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("application/json"):
                length = headers.get("content-length", "")
                self._content_length = int(length) if length.isdecimal() else None
                self._start = message
                return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        more = bool(message.get("more_body", False))
        if more and (self._content_length is None or len(self._body) < self._content_length):
            return
        start, self._start = self._start, None
        body = _rewritten(self._body, start["status"], self._messages)
        headers = MutableHeaders(scope=start)
        headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _rewritten(body: bytes, status: int, messages: bool) -> bytes:
    try:
        content = json.loads(body)
    except ValueError:
        return body
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, dict):
        message, param = error.get("message"), error.get("param")
        if not messages or (content.get("type") == "error" and error.get("type") in ANTHROPIC_TYPES.values()):
            if not isinstance(message, str) or clean(message) == message:
                return body
            return json.dumps({**content, "error": {**error, "message": clean(message)}}).encode()
    elif isinstance(content, dict) and "detail" in content:
        # FastAPI's own error for an unknown path or method.
        message, param = content["detail"], None
    else:
        return body
    message = clean(message if isinstance(message, str) else json.dumps(message))
    if messages:
        return json.dumps(messages_error_object(status, message, param)).encode()
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
