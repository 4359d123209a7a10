"""The key of JSON and tool calls, whatever their layout and key order."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Literal

MAX_LENGTH = 100_000


def read_json(text: str) -> tuple[Literal["json", "tool_call"], str] | None:
    """Return (kind, canonical JSON) of a JSON object or array, fenced or not, or of tool calls; else None.

    A tool call is an object with `name` and `arguments`, bare or between `<tool_call>` tags.
    """
    if len(text) > MAX_LENGTH or not text.startswith(("{", "[", "`", "<")):
        return None
    fenced = re.fullmatch(r"```(?:json)?\s(.*)```", text, re.DOTALL)
    body = fenced[1].strip() if fenced else text
    try:
        if body.startswith("<tool_call>"):
            calls = [call.strip().removesuffix("</tool_call>") for call in body.split("<tool_call>")[1:]]
            return "tool_call", _dump([_load(call) for call in calls])
        if not body.startswith(("{", "[")):
            return None
        value = _load(body)
        if isinstance(value, dict) and "name" in value and "arguments" in value:
            return "tool_call", _dump([value])
        return "json", _dump(value)
    except (ValueError, RecursionError):
        return None


def _load(text: str) -> Any:
    return _canonical(json.loads(text, parse_constant=_refuse))


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _canonical(value: Any) -> Any:
    """Return `value` with equal numbers and characters written alike; a call's arguments may be JSON in a
    string."""
    if isinstance(value, dict):
        arguments = value.get("arguments")
        if "name" in value and isinstance(arguments, str):
            value = value | {"arguments": json.loads(arguments)}
        return {unicodedata.normalize("NFC", key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
