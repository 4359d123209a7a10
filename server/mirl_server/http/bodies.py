"""Request bodies as JSON objects."""

from __future__ import annotations

from json import detect_encoding
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request

from mirl_core.errors import RequestError

JSON_TYPE = "application/json"


def is_json(request: Request) -> bool:
    """Return whether a request declares its body to be JSON."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == JSON_TYPE


async def read_body(request: Request) -> dict[str, Any]:
    """Return a request's body as a JSON object.

    Raises:
        RequestError: the content type or the body is not a JSON object.
    """
    if not is_json(request):
        raise RequestError("the content type must be application/json")
    return read_json(await request.body())


def read_json(body: bytes) -> dict[str, Any]:
    """Return a body as a JSON object. As for vLLM, it may be UTF-16 or UTF-32, and begin with its mark.

    Raises:
        RequestError: the body is not valid JSON, holds NaN or infinities, is nested too deeply, or is no
            object.
    """
    try:
        encoding = detect_encoding(body)
        text = body if encoding == "utf-8" else body.decode(encoding)
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    return value
