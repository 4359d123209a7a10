"""Errors have one status each, and OpenAI's body."""

from __future__ import annotations

import json

import pytest

from mirl_core import errors
from mirl_core.errors import BusyError, DrainingError, EngineDeadError, MIRLError, RateLimitError
from mirl_server.http.errors import STATUSES, error_response


def leaves(kind: type[MIRLError] = MIRLError) -> list[type[MIRLError]]:
    return [leaf for child in kind.__subclasses__() for leaf in (child, *leaves(child))]


def test_the_table_is_the_tree() -> None:
    assert set(STATUSES) == set(leaves())
    assert {kind.__name__ for kind in STATUSES} | {"MIRLError"} == set(errors.__all__)


CASES = [
    ("RequestError", 400, "invalid_request_error", None),
    ("ImageError", 400, "invalid_request_error", "invalid_image"),
    ("ContextLengthError", 400, "invalid_request_error", "context_length_exceeded"),
    ("AuthenticationError", 401, "invalid_request_error", "invalid_api_key"),
    ("ModelNotFoundError", 404, "invalid_request_error", "model_not_found"),
    ("BodyTimeoutError", 408, "timeout_error", "request_timeout"),
    ("RequestTooLargeError", 413, "invalid_request_error", "request_too_large"),
    ("BusyError", 429, "rate_limit_error", "overloaded"),
    ("RateLimitError", 429, "rate_limit_error", "rate_limit_exceeded"),
    ("EngineError", 500, "server_error", "engine_error"),
    ("ConfigError", 500, "server_error", "misconfigured"),
    ("TrainingError", 500, "server_error", "training_failed"),
    ("ServerError", 502, "server_error", "bad_gateway"),
    ("EngineDeadError", 503, "server_error", "engine_dead"),
    ("DrainingError", 503, "server_error", "draining"),
    ("DeadlineError", 504, "timeout_error", "deadline_exceeded"),
]


def test_every_error_has_a_case() -> None:
    assert sorted(name for name, *_ in CASES) == sorted(kind.__name__ for kind in STATUSES)


@pytest.mark.parametrize(("name", "status", "kind", "code"), CASES)
def test_statuses_and_codes(name: str, status: int, kind: str, code: str | None) -> None:
    response = error_response(getattr(errors, name)("x", param="mirl.keep"))
    assert response.status_code == status
    error = {"message": "x", "type": kind, "param": "mirl.keep", "code": code}
    assert json.loads(bytes(response.body)) == {"error": error}
    headers = {"retry-after": "5"} if status == 503 else {}
    headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
    assert dict(response.headers).items() >= headers.items()
    assert len(response.headers) == 2 + len(headers)


def test_a_refusal_says_how_long_to_wait() -> None:
    assert error_response(BusyError("x", 2.1)).headers["retry-after"] == "3"
    assert error_response(BusyError("x", 60)).headers["retry-after"] == "60"
    assert error_response(DrainingError("x", 7)).headers["retry-after"] == "7"
    assert error_response(RateLimitError("x", 59.01)).headers["retry-after"] == "60"
    assert error_response(RateLimitError("x", 0)).headers["retry-after"] == "1"
    assert error_response(EngineDeadError("x")).headers["retry-after"] == "5"
    assert "retry-after" not in error_response(BusyError("x")).headers
