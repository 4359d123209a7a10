"""The schemas of the API's document: one component for each definition; descriptions in the words of JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

COMPONENTS = "#/components/schemas/"
_DEFINITIONS = "#/$defs/"
_PREFIX = "MIRL"
_WORDS = {"None": "null", "True": "true", "False": "false"}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b")


def name_components(document: Json) -> None:
    """Move the definitions (`$defs`) of a document's schemas to its components, in place.

    Where the name is taken by another schema, such as one of the backend's, the definition has the prefix
    `MIRL`.
    """
    components = document.setdefault("components", {}).setdefault("schemas", {})
    owners = [node for node in _objects(document["paths"]) if isinstance(node.get("$defs"), dict)]
    for owner in owners:
        definitions = owner.pop("$defs")
        renamed = {
            name: name if _is_free(name, schema, components) else f"{_PREFIX}{name}"
            for name, schema in definitions.items()
        }
        for node in _objects([owner, definitions]):
            reference = node.get("$ref")
            if isinstance(reference, str) and reference.startswith(_DEFINITIONS):
                name = reference.removeprefix(_DEFINITIONS)
                node["$ref"] = f"{COMPONENTS}{renamed[name]}"
        components |= {renamed[name]: schema for name, schema in definitions.items()}
    document["components"]["schemas"] = dict(sorted(components.items()))


def _is_free(name: str, schema: Json, components: Json) -> bool:
    """Return whether a component may have a name: nothing has it, or the same schema does."""
    present = components.get(name)
    return present is None or _unrooted(present) == _unrooted(schema)


def _unrooted(schema: Any) -> Any:
    """Return a schema whose references have the definition's name alone, without place and prefix."""
    if isinstance(schema, list):
        return [_unrooted(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.rpartition("/")[2].removeprefix(_PREFIX)
        if key == "$ref" and isinstance(value, str)
        else _unrooted(value)
        for key, value in schema.items()
    }


def speak_json(document: Json) -> None:
    """Write Python's constants in descriptions as JSON's, in place: descriptions come from docstrings."""
    for node in _objects(document):
        description = node.get("description")
        if isinstance(description, str):
            node["description"] = _WORD.sub(lambda word: _WORDS[word[0]], description)


def _objects(node: Any) -> Iterator[Json]:
    """Yield every object of a JSON value, outer ones first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _objects(value)
    elif isinstance(node, list):
        for item in node:
            yield from _objects(item)
