"""Errors over HTTP: the status, body and headers of each, in OpenAI's form and in Anthropic's.

A failure never comes as a 200: every leaf of `mirl_core.errors` has a row in `STATUSES`, and a test covers
each. Clients of `/v1/messages` read Anthropic's error object and no other; every other client expects
OpenAI's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from mirl_core.errors import (
    RETRY_AFTER,
    AuthenticationError,
    BodyTimeoutError,
    BusyError,
    ConfigError,
    ContextLengthError,
    DeadlineError,
    DrainingError,
    EngineDeadError,
    EngineError,
    ImageError,
    MIRLError,
    ModelNotFoundError,
    RateLimitError,
    RequestError,
    RequestTooLargeError,
    ServerError,
    TrainingError,
)
from mirl_server.http.error_words import clean

Json = dict[str, Any]

STATUSES: Mapping[type[MIRLError], tuple[int, str, str | None]] = {
    # error: (status, error.type, error.code)
    RequestError: (400, "invalid_request_error", None),
    ImageError: (400, "invalid_request_error", "invalid_image"),
    ContextLengthError: (400, "invalid_request_error", "context_length_exceeded"),
    ModelNotFoundError: (404, "invalid_request_error", "model_not_found"),
    RequestTooLargeError: (413, "invalid_request_error", "request_too_large"),
    BodyTimeoutError: (408, "timeout_error", "request_timeout"),
    AuthenticationError: (401, "invalid_request_error", "invalid_api_key"),
    BusyError: (429, "rate_limit_error", "overloaded"),
    RateLimitError: (429, "rate_limit_error", "rate_limit_exceeded"),
    DrainingError: (503, "server_error", "draining"),
    ConfigError: (500, "server_error", "misconfigured"),
    EngineError: (500, "server_error", "engine_error"),
    EngineDeadError: (503, "server_error", "engine_dead"),
    DeadlineError: (504, "timeout_error", "deadline_exceeded"),
    ServerError: (502, "server_error", "bad_gateway"),
    # No server raises this one; the table covers the whole tree.
    TrainingError: (500, "server_error", "training_failed"),
}
ANTHROPIC_TYPES: Mapping[int, str] = {
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
"""`error.type` of the Anthropic API, by status."""
_MESSAGES_PATH = "/v1/messages"


def draining_error() -> DrainingError:
    """Return the error of every request that a stopping server refuses."""
    return DrainingError("the server is shutting down; send the request again", RETRY_AFTER)


def error_status(error: MIRLError) -> int:
    """Return the HTTP status of an error."""
    return STATUSES[type(error)][0]


def error_body(error: MIRLError) -> Json:
    """Return an error as OpenAI's error object."""
    _, kind, code = STATUSES[type(error)]
    return {"error": {"message": clean(error.message), "type": kind, "param": error.param, "code": code}}


def error_response(error: MIRLError, path: str = "") -> JSONResponse:
    """Return the response to a request that failed, with its status and headers.

    Args:
        path: of the request, which decides the form; empty: OpenAI's error object.
    """
    return JSONResponse(error_object(error, path), error_status(error), _headers(error))


def _headers(error: MIRLError) -> dict[str, str]:
    if isinstance(error, BusyError) and error.retry_after is not None:
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if error_status(error) == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(RETRY_AFTER)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, AuthenticationError) else {}


def is_messages(path: str) -> bool:
    """Return whether a path belongs to the Anthropic API."""
    return path == _MESSAGES_PATH or path.startswith(_MESSAGES_PATH + "/")


def messages_error(error: MIRLError) -> Json:
    """Return an error as Anthropic's error object."""
    return messages_error_object(error_status(error), error.message, error.param)


def messages_error_object(status: int, message: str, param: object) -> Json:
    """Return Anthropic's error object. It has no entry for the wrong field, so the message names `param`."""
    kind = ANTHROPIC_TYPES.get(
        status, "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    )
    message = clean(message)
    if isinstance(param, str) and param not in message:
        message = f"{param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_object(error: MIRLError, path: str) -> Json:
    """Return an error in the form of the API that `path` belongs to."""
    return messages_error(error) if is_messages(path) else error_body(error)
