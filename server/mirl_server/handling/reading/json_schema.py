"""JSON schemas of messages and their parts, as OpenAPI documents them, and an example image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8ISfHgA0wMeAAg1MCANDKARQfGKMRAAAAAElFTkSuQmCC"
)
"""A red square, in base64."""
EXAMPLE_OPTIONS = {"descriptions": 4, "keep": 2, "forks": 1}


def object_schema(required: Sequence[str] = (), **properties: Json) -> Json:
    """Return the schema of an object that may have more than these properties."""
    return {"type": "object", "required": list(required), "properties": properties}


OTHER_PART = object_schema(["type"], type={"type": "string"})
"""The schema of a content part, or an item, of another type: the backend's own handler knows more types."""


def content_schema(*parts: Json) -> Json:
    """Return the schema of a message's content: text, or a list of parts of these and of other types."""
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [*parts, OTHER_PART]}}]}


def part_schema(kind: str, **properties: Json) -> Json:
    """Return the schema of a content part, all of whose properties are required."""
    return object_schema(["type", *properties], type={"const": kind}, **properties)


def message_schema(roles: Sequence[str], content: Json) -> Json:
    """Return the schema of a message."""
    return object_schema(["role"], role={"enum": list(roles)}, content=content)


def list_schema(item: Json) -> Json:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "minItems": 1, "items": item}
