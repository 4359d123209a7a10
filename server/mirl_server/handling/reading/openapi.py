"""The gated request in OpenAPI: its JSON schema, and an example."""

from __future__ import annotations

from typing import Any

from mirl_core.config import MIRLOptions
from mirl_server.handling.reading.json_schema import EXAMPLE_OPTIONS, EXAMPLE_PNG
from mirl_server.handling.reading.request import ChatRequest


def request_schema() -> dict[str, Any]:
    """Return the gated request's JSON schema, its definitions in `$defs`.

    It is open: the backend's own handler takes more fields.
    """
    schema = ChatRequest.model_json_schema()
    schema.pop("additionalProperties")
    properties = schema["properties"]
    definitions = schema.setdefault("$defs", {})
    options = MIRLOptions.model_json_schema()
    definitions |= options.pop("$defs", {})
    definitions["MIRLOptions"] = options
    definitions["InputMessage"] = properties["messages"]["items"]
    properties["messages"]["items"] = {"$ref": "#/$defs/InputMessage"}
    properties["mirl"] = {"$ref": "#/$defs/MIRLOptions"}
    return schema


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
