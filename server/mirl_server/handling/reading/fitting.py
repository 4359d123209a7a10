"""Rewriting of a body's fields where the gate accepts a form that the backend would refuse, for every API."""

from __future__ import annotations

from typing import Any

from mirl_server.handling.reading.response_format import constrains_tools

_MOST_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_LARGEST = 2**63


def fit_fields(body: dict[str, Any], max_model_len: int) -> None:
    """Change the fields of a body in place.

    A null counts as an absent field, a limit on the answer's tokens as at most the model's length, and a
    choice among no tools as none.

    Args:
        max_model_len: tokens; 0: unknown.
    """
    for name in [name for name, value in body.items() if value is None]:
        del body[name]
    for name in _MOST_TOKENS:
        limit = body.get(name)
        if isinstance(limit, int) and max_model_len and max_model_len < limit < _LARGEST:
            body[name] = max_model_len
    if body.get("tools", []) == []:
        body.pop("tools", None)
        if not constrains_tools(body):
            body.pop("tool_choice", None)
    options = body.get("stream_options")
    if isinstance(options, dict) and not any(value is not None for value in options.values()):
        del body["stream_options"]
    _fit_format(body.get("response_format"), "json_schema")
    _fit_format(body.get("text"), "format")


def _fit_format(holder: object, key: str) -> None:
    """Give the schema of a form a name, which OpenAI's form must have."""
    form = holder.get(key) if isinstance(holder, dict) else None
    if isinstance(form, dict) and form.get("schema") is not None and form.get("name") is None:
        form["name"] = "answer"
