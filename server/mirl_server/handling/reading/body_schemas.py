"""The JSON schemas that answers to a plain request are held to: checked as the gate checks its own.

One list serves the bodies of all APIs: no field of one has another meaning in another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from mirl_core.algorithm.answers.forms import AnswerFormat, calls_of, json_schema
from mirl_core.engines.base import Engine
from mirl_core.engines.common.json_schemas import self_contained, side_by_side
from mirl_core.errors import RequestError
from mirl_server.handling.reading.response_format import constrains_tools, naming, parameters_of

_FORMATS = (
    # the field of the body, where in it the format is, and where in that the schema is
    ("response_format", (), ("json_schema", "schema")),
    ("text", ("format",), ("schema",)),
    ("output_config", ("format",), ("schema",)),
)


@dataclass(frozen=True, slots=True)
class _Schema:
    """A schema and where a body holds it."""

    holder: dict[str, Any]
    key: str
    field: str
    """The field of the body, as errors name it."""
    tool: str | None = None
    """The name of the tool whose arguments it describes."""

    def form(self, schema: Mapping[str, Any]) -> AnswerFormat:
        return json_schema(schema) if self.tool is None else calls_of({self.tool: schema}, 1)


async def hold_schemas(body: dict[str, Any], engine: Engine | None) -> bool:
    """Check the schemas in a body and make each self-contained; return whether the body has changed.

    The backend embeds the schemas of tools in a larger one, and follows only references of some forms.

    Args:
        engine: checks each schema; None: the backend alone does.

    Raises:
        RequestError: a schema is missing or wrong, or the engine can't constrain answers to it.
    """
    schemas = _schemas(body)
    changed = False
    tools = {f"{schema.tool}_{i}": schema for i, schema in enumerate(schemas) if schema.tool is not None}
    for schema in schemas:
        with _naming(schema):
            self_contained(schema.holder[schema.key])
            if engine is not None:
                await engine.check_structure(schema.form(schema.holder[schema.key]).alone())
    moved = side_by_side({key: schema.holder[schema.key] for key, schema in tools.items()})
    for i, schema in enumerate(schemas):
        before = schema.holder[schema.key]
        after = self_contained(before) if schema.tool is None else moved[f"{schema.tool}_{i}"]
        if after != before:
            schema.holder[schema.key] = after
            changed = True
    return changed


def _naming(schema: _Schema) -> AbstractContextManager[None]:
    return naming(schema.field, "" if schema.tool is None else f"{parameters_of(schema.tool)}: ")


def _schemas(body: dict[str, Any]) -> list[_Schema]:
    """Return the schemas in a body, as far as their surroundings are of the right types.

    Raises:
        RequestError: a format that must have a schema has none.
    """
    schemas = []
    for field, path, schema_path in _FORMATS:
        form: Any = body.get(field)
        for key in path:
            form = form.get(key) if isinstance(form, dict) else None
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            continue
        holder: Any = form
        for key in schema_path[:-1]:
            holder = holder.get(key)
            if not isinstance(holder, dict):
                break
        name = ".".join([field, *path])
        if not isinstance(holder, dict) or holder.get(schema_path[-1]) is None:
            raise RequestError(f"{'.'.join([name, *schema_path])} is missing", param=name)
        schemas.append(_Schema(holder, schema_path[-1], name))
    structured = body.get("structured_outputs")
    if isinstance(structured, dict) and structured.get("json") is not None:
        structured["json"] = _parsed(structured["json"])
        schemas.append(_Schema(structured, "json", "structured_outputs"))
    tools = body.get("tools")
    if constrains_tools(body) and isinstance(tools, list):
        schemas += [schema for tool in tools if (schema := _tool_schema(tool)) is not None]
    return [schema for schema in schemas if isinstance(schema.holder[schema.key], dict)]


def _tool_schema(tool: object) -> _Schema | None:
    """Return the schema of a tool's arguments: chat nests it, the other APIs do not."""
    holder = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(holder, dict) or not isinstance(holder.get("name"), str):
        return None
    key = "input_schema" if "input_schema" in holder else "parameters"
    return _Schema(holder, key, "tools", holder["name"]) if holder.get(key) is not None else None


def _parsed(schema: object) -> object:
    """Return a schema that is JSON as text as an object; anything else stays as it is."""
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        return schema
