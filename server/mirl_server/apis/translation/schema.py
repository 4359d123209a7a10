"""An API's request in OpenAPI: its fields as chat documents them, under its own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mirl_server.apis.openapi import json_body
from mirl_server.apis.translation.fields import Fields
from mirl_server.handling.requests import request_schema


def request_body(
    fields: Fields, required: Sequence[str], own: Mapping[str, Any], example: dict[str, Any]
) -> dict[str, Any]:
    """The `requestBody` of a route; `own` are the schemas of what is the API's alone."""
    chat = request_schema()["properties"]
    names = {name: name for name in fields.same} | dict(fields.renamed)
    shared = {own_name: chat[name] for own_name, name in sorted(names.items()) if name in chat}
    schema = {"type": "object", "required": list(required), "properties": {**own, **shared}}
    return json_body(schema, example)
