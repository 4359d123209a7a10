"""The gated request in OpenAPI: its JSON schema, and an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_server.handling.reading.json_schema import EXAMPLE_OPTIONS, EXAMPLE_PNG
from mirl_server.handling.reading.request import ChatRequest


def request_schema() -> dict[str, Any]:
    """Return the gated request's JSON schema. It is open: the backend's own handler takes more fields."""
    schema = ChatRequest.model_json_schema()
    schema.pop("additionalProperties")
    definitions = schema.pop("$defs", {})
    schema["properties"]["mirl"] = MIRLOptions.model_json_schema()
    whole: dict[str, Any] = inlined(schema, definitions)
    return whole


def inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with its definitions inlined: an OpenAPI document keeps them elsewhere."""
    if isinstance(node, list):
        return [inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: inlined(value, definitions) for name, value in node.items()}


def request_example() -> dict[str, Any]:
    """Return a gated request that any model can answer."""
    return {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{EXAMPLE_PNG}"}},
                    {"type": "text", "text": "What colour is this?"},
                ],
            }
        ],
        "max_tokens": 200,
        "mirl": EXAMPLE_OPTIONS,
    }
