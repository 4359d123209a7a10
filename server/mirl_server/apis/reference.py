"""The generator of docs/api.md: `python -m mirl_server.apis.reference docs/api.md`; it needs no engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mirl_server.apis.__main__ import document

Json = Mapping[str, Any]

HEAD = """\
# API reference

Generated from the server's OpenAPI document by `python -m mirl_server.apis.reference docs/api.md`, which a
test compares it with. A running server has the same at `/docs` and `/openapi.json`, with vLLM's own endpoints
beside it.

What the fields do is in [serving.md](serving.md). A field in bold is required. `[]` stands for every element
of a list.
"""
_REF = "#/components/schemas/"
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_HEAD_ROWS = ["| field | type | default | |", "| --- | --- | --- | --- |"]


def reference(api: Json) -> str:
    """Return the whole page as Markdown.

    Args:
        api: the OpenAPI document.
    """
    parts = [HEAD]
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            parts.append(_route(f"{method.upper()} {path}", route))
    parts.append("## Bodies\n")
    for name, schema in sorted(api["components"]["schemas"].items()):
        parts.append(f"### {name}\n")
        parts += [f"{_cell(schema['description'])}\n"] if "description" in schema else []
        parts.append(_table(schema))
    return "\n".join(parts)


def _route(title: str, route: Json) -> str:
    parts = [f"## `{title}`\n", f"{_cell(route.get('description', ''))}\n"]
    parameters = route.get("parameters", [])
    if parameters:
        rows = [_row(field["name"], field["schema"], field.get("required", False)) for field in parameters]
        parts.append("\n".join(["| parameter | type | default | |", _HEAD_ROWS[1], *rows]) + "\n")
    body = route.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        parts.append(_table(body["schema"]))
    rows = [f"| {status} | {_answer(answer)} |" for status, answer in sorted(route["responses"].items())]
    parts.append("\n".join(["| status | answer |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def _answer(answer: Json) -> str:
    content = answer.get("content", {})
    schema = content.get("application/json", {}).get("schema")
    words = [_cell(answer["description"])]
    if schema:
        words.append(_type(schema))
    if "text/event-stream" in content:
        words.append("or a stream of events")
    return f"{words[0]}: {' '.join(words[1:])}" if words[1:] else words[0]


def _table(schema: Json) -> str:
    rows = [_row(name, field, required) for name, field, required in _fields(schema)]
    return "\n".join([*_HEAD_ROWS, *rows]) + "\n" if rows else ""


def _fields(schema: Json, before: str = "") -> Iterator[tuple[str, Json, bool]]:
    """Yield an object's fields, and those of objects and lists of objects inside it, by dotted names."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        dotted = f"{before}{name}"
        yield dotted, field, name in required
        for member in field.get("anyOf", [field]):
            if member.get("type") == "array" and "properties" in member.get("items", {}):
                yield from _fields(member["items"], f"{dotted}[].")
            elif "properties" in member:
                yield from _fields(member, f"{dotted}.")


def _row(name: str, field: Json, required: bool) -> str:
    shown = f"**`{name}`**" if required else f"`{name}`"
    default = field.get("default")
    value = "" if default is None else f"`{_cell(json.dumps(default, ensure_ascii=False))}`"
    return f"| {shown} | {_type(field)} | {value} | {_cell(field.get('description', ''))} |"


def _type(schema: Json) -> str:
    """Return a schema's type in words: `integer, ≥ 1`, `list of [Stage](#stage)`, `text or null`."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(member) for member in schema[key]))
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", "any")).replace("string", "text")
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return ", ".join([kind, *bounds])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Print the reference, or write it to the file that the first argument names."""
    text = reference(json.loads(document()))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
