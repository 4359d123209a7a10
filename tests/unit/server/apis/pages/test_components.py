"""Schemas have one name each, and descriptions the words of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mirl_server.apis.__main__ import document
from mirl_server.apis.pages.components import name_components, speak_json


def descriptions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("description"), str):
            yield node["description"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from descriptions(item)


def test_no_description_of_the_document_has_pythons_constants() -> None:
    texts = list(descriptions(json.loads(document())))
    assert "Clip every per-token log-ratio to ±this many nats; null: no clipping." in texts
    assert [text for text in texts if re.search(r"\b(None|True|False)\b", text)] == []


def test_every_definition_of_the_document_is_a_component() -> None:
    text = document()
    components = json.loads(text)["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "([^"]*)"', text))
    assert {"#/components/schemas/MIRLOptions", "#/components/schemas/StartedStage"} <= references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= components.keys()
    assert "$defs" not in text
    # No second schema for a name.
    assert [name for name in components if name.removeprefix("MIRL") in components.keys() - {name}] == []


def test_constants_are_words_of_their_own() -> None:
    node = {
        "description": "None: off; True or False. NoneType",
        "properties": {"description": {"const": "None"}},
    }
    speak_json(node)
    assert node["description"] == "null: off; true or false. NoneType"
    assert node["properties"] == {"description": {"const": "None"}}


def test_a_name_that_another_schema_has_gets_a_prefix() -> None:
    tool = {"type": "object"}
    taken = {"Tool": {"type": "string"}, "Text": {"type": "string"}}
    pair = {"items": {"$ref": "#/$defs/Tool"}}

    def body() -> dict[str, Any]:
        definitions = {"Tool": dict(tool), "Text": dict(taken["Text"]), "Pair": json.loads(json.dumps(pair))}
        return {"schema": {"$ref": "#/$defs/Pair", "$defs": definitions}}

    made = {"paths": {"/a": body(), "/b": body()}, "components": {"schemas": dict(taken)}}
    name_components(made)
    assert made["components"] == {
        "schemas": {
            "MIRLTool": tool,
            "Pair": {"items": {"$ref": "#/components/schemas/MIRLTool"}},
            **taken,
        }
    }
    assert made["paths"] == {path: {"schema": {"$ref": "#/components/schemas/Pair"}} for path in ("/a", "/b")}
    # A second time, nothing changes.
    before = json.dumps(made)
    name_components(made)
    assert json.dumps(made) == before
