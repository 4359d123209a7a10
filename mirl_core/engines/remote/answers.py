"""What a vLLM server's response is: JSON, or one of MIRL's errors.

Errors quote a server's message only up to a limit.
"""

from __future__ import annotations

from typing import Any

import httpx

from mirl_core.engines.base import error_from_vllm
from mirl_core.errors import (
    EngineError,
    ModelNotFoundError,
    RequestTooLargeError,
    ServerError,
)

MESSAGE_CHARACTERS = 500


def read_answer(response: httpx.Response, where: str, param: str | None) -> Any:
    """Return a response's JSON; None for an empty one.

    Args:
        where: server and path, for messages.
        param: the request's field to blame for a refusal where the server names none.

    Raises:
        RequestError: the server refused the request.
        ServerError: the server failed, or refused for a reason other than the request.
        EngineError: the answer is not JSON.
    """
    status = response.status_code
    if response.is_success:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise EngineError(f"{where} answered something that is not JSON") from error
    message, field, kind = _error_details(response)
    if status == 404 and kind == "NotFoundError":
        raise ModelNotFoundError(message, param=field)
    if status in (404, 405):
        raise ServerError(f"{where} does not exist: it is another server than vLLM 0.32 or newer", status)
    if status == 413:
        raise RequestTooLargeError(message, param=param or field)
    if status in (400, 422):
        raise error_from_vllm(message, param or field)
    raise ServerError(f"{where} failed with status {status}: {message}", status)


def short(message: object) -> str:
    """Return a message on one line, of limited length."""
    text = " ".join(str(message or "").split()) or type(message).__name__
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}…"


def _error_details(response: httpx.Response) -> tuple[str, str | None, str | None]:
    """Return message, field and error type of a refusal."""
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error", body.get("detail")) if isinstance(body, dict) else response.text
    if not isinstance(error, dict):
        return short(error), None, None
    return short(error.get("message")), error.get("param"), error.get("type")
