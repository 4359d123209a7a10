"""A translated API's request in OpenAPI: chat's documentation of its fields, under the API's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mirl_server.apis.openapi import json_body
from mirl_server.apis.translation.fields import Fields
from mirl_server.handling.reading.openapi import request_schema


def request_body(
    fields: Fields, required: Sequence[str], own: Mapping[str, Any], example: dict[str, Any]
) -> dict[str, Any]:
    """Return the `openapi_extra` of a route.

    Args:
        own: the schemas of the fields that chat does not have.
    """
    chat = request_schema()
    names = {name: name for name in fields.same} | dict(fields.renamed)
    shared = {
        own_name: chat["properties"][name]
        for own_name, name in sorted(names.items())
        if name in chat["properties"]
    }
    schema = {
        "type": "object",
        "required": list(required),
        "properties": {**own, **shared},
        "$defs": chat["$defs"],
    }
    return json_body(schema, example)
