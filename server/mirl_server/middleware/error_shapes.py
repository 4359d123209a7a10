"""The layer that gives each JSON error the form of its API, whether middleware, route or backend sent it.

Clients of `/v1/messages` know only the Anthropic API's error object; all other clients expect OpenAI's. With
this layer the code before and behind the routes need not know which API it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_core.errors import MIRLError
from mirl_server.apis.protocol import Json, error_body, error_status

MESSAGES = "/v1/messages"
_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}
"""The Anthropic API's, by status."""


def is_messages(path: str) -> bool:
    """Whether a path is the Anthropic API's."""
    return path == MESSAGES or path.startswith(MESSAGES + "/")


def messages_error(error: MIRLError) -> Json:
    """The Anthropic API's error object. It has no place for the field at fault, so the message names it."""
    return _messages_object(error_status(error), error.message, error.param)


def error_object(error: MIRLError, path: str) -> Json:
    """An error as the API at `path` tells it."""
    return messages_error(error) if is_messages(path) else error_body(error)


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
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        await self.app(scope, receive, _ErrorResponse(is_messages(path), send).send)


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
        told = json.loads(body)
    except ValueError:
        return body
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        if not messages or (told.get("type") == "error" and error.get("type") in _TYPES.values()):
            return body
        message, param = error.get("message"), error.get("param")
    elif isinstance(told, dict) and "detail" in told:
        # FastAPI's own error for an unknown path or method.
        message, param = told["detail"], None
    else:
        return body
    message = message if isinstance(message, str) else json.dumps(message)
    if messages:
        return json.dumps(_messages_object(status, message, param)).encode()
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()


def _messages_object(status: int, message: str, param: Any) -> Json:
    kind = _TYPES.get(
        status, "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    )
    if isinstance(param, str) and param not in message:
        message = f"{param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}
