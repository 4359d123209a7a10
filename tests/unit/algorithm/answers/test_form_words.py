"""Forms of answers without an engine: the exact structural tags, and what is read of a chain."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mirl_core.algorithm.answers import Extract
from mirl_core.algorithm.answers.forms import (
    AnswerFormat,
    FreeCalls,
    calls_of,
    json_schema,
    one_of,
    read_calls,
)
from mirl_core.config import Tags

Make = Callable[[], AnswerFormat]
TAGS = Tags(description=("[D]", "[/D]"), reasoning=("[R]", "[/R]"), answer=("[A]", "[/A]"))
ANY_OBJECT = {"type": "json_schema", "json_schema": {"type": "object"}}


def call_schema(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


TOOLS = {
    "paint": {
        "type": "object", "properties": {"c": {"$ref": "#/$defs/colour"}},
        "$defs": {"colour": {"enum": ["ä"]}},
    },
    "wait": {},
    "go": {"type": "object", "$defs": {"way": {"type": "string"}}},
}  # fmt: skip
CALLS = {
    "type": "json_schema",
    "json_schema": {
        "type": "array",
        "items": {
            "anyOf": [
                call_schema("paint", {"type": "object", "properties": {"c": {"$ref": "#/$defs/colour"}}}),
                call_schema("wait", {"type": "object"}),
                call_schema("go", {"type": "object"}),
            ]
        },
        "minItems": 1,
        "maxItems": 3,
        "$defs": {"colour": {"enum": ["ä"]}, "way": {"type": "string"}},
    },
}
PLAIN_CALL = {
    "type": "json_schema",
    "json_schema": {
        "type": "array",
        "items": {"anyOf": [call_schema("wait", {"type": "object"})]},
        "minItems": 1,
        "maxItems": 1,
    },
}


@pytest.mark.parametrize(
    ("make", "content", "is_json", "calls"),
    [
        (lambda: json_schema(None), ANY_OBJECT, True, False),
        (
            lambda: json_schema({"type": "ä"}),
            {"type": "json_schema", "json_schema": {"type": "ä"}},
            True,
            False,
        ),
        (
            lambda: one_of(["red", "blau ü"]),
            {
                "type": "or",
                "elements": [
                    {"type": "const_string", "value": "red"},
                    {"type": "const_string", "value": "blau ü"},
                ],
            },
            False,
            False,
        ),
        (lambda: calls_of(TOOLS, 3), CALLS, True, True),
        (lambda: calls_of({"wait": {}}, 1), PLAIN_CALL, True, True),
    ],
)
def test_structural_tags(make: Make, content: Any, is_json: bool, calls: bool) -> None:
    form = make()
    assert (form.is_json, form.calls) == (is_json, calls)
    assert json.loads(form.alone()) == {"type": "structural_tag", "format": content}
    assert json.loads(form.after_description(TAGS)) == {
        "type": "structural_tag",
        "format": {
            "type": "sequence",
            "elements": [
                {"type": "any_text", "excludes": ["[A]", "[/A]"]},
                {"type": "tag", "begin": "[A]", "content": content, "end": "[/A]"},
            ],
        },
    }
    # Word for word: models see characters, not escapes.
    assert "\\u" not in form.alone() + form.after_description(TAGS)


@pytest.mark.parametrize(
    ("make", "text", "finished", "alone", "expected"),
    [
        (lambda: json_schema(None), "[R]so[/R][A]{}[/A]", True, False, Extract("so", "{}", 12)),
        (lambda: json_schema(None), "[D][R]so[/R][/D] [A] {}", True, False, Extract("so", "{}", 21)),
        (lambda: json_schema(None), "[A]{}[/A][A]", True, False, Extract("", None)),
        (lambda: json_schema(None), "[A]{}[/A]", True, True, Extract("", None)),
        (lambda: json_schema(None), "[R]so[/R][A]{}[/A]", False, False, Extract("so", None)),
        (lambda: json_schema(None), "  {}\n", True, True, Extract("", "{}", 2)),
        (lambda: json_schema(None), "{}", False, True, Extract("", None)),
        (lambda: json_schema(None), "", True, True, Extract("", None)),
        (lambda: json_schema(None), "[R] no answer [/R]", True, False, Extract("no answer", None)),
        (lambda: one_of(["red"]), "[A]red[A][/A]", True, False, Extract("", "red[A]", 3)),
        # A choice comes word for word, with its white space.
        (lambda: one_of(["red", " "]), "[A] [/A]", True, False, Extract("", " ", 3)),
        (lambda: one_of([" red"]), " red", True, True, Extract("", " red", 0)),
        (lambda: one_of(["red"]), "[A][/A]", True, False, Extract("", None)),
        (lambda: calls_of(TOOLS, 3), "so[A] [1]", True, False, Extract("so", "[1]", 6, calls=True)),
    ],
)
def test_what_is_read(make: Make, text: str, finished: bool, alone: bool, expected: Extract) -> None:
    assert make().read(text, TAGS, finished, alone) == expected


def words(text: str) -> list[tuple[str, str]]:
    """Calls written as `name(arguments)`, a line each."""
    lines = [line.partition("(") for line in text.splitlines() if line.endswith(")")]
    return [(name, arguments[:-1]) for name, _, arguments in lines]


@pytest.mark.parametrize(
    ("most", "text", "finished", "expected"),
    [
        (
            None,
            '[D][R]f({})\nso[/R]f({"ä": 1})\ng()',
            True,
            Extract(
                "f({})\nso",
                '[{"name": "f", "arguments": "{\\"ä\\": 1}"}, {"name": "g", "arguments": ""}]',
                calls=True,
            ),
        ),
        (1, "[R]so[/R]f(1)\ng(2)", True, Extract("so", '[{"name": "f", "arguments": "1"}]', calls=True)),
        (0, "[R]so[/R][A]f(1)[/A]", True, Extract("so", "f(1)", 12)),
        (None, "[R]so[/R][A]f(1)[/A]\ng(2)", False, Extract("so", "f(1)", 12)),
        (None, "[R]so[/R][A]7[/A]", True, Extract("so", "7", 12)),
        (None, "[R]so[/R][A]7", True, Extract("so", "7", 12)),
        (None, "[R]so[/R][A]7", False, Extract("so", None)),
        (None, "[R]a[/R]b[/R]f(1)", True, Extract("ab", '[{"name": "f", "arguments": "1"}]', calls=True)),
    ],
)
def test_free_calls(most: int | None, text: str, finished: bool, expected: Extract) -> None:
    form = FreeCalls(words, most)
    assert (form.after_description(TAGS), form.alone()) == (None, None)
    for alone in (False, True):
        assert form.read(text, TAGS, finished, alone) == expected


def test_calls_are_read_back_with_their_arguments_as_text() -> None:
    answer = '[{"name": "f", "arguments": {"ä": [1, 2.5]}}, {"name": "g", "arguments": "{ }"}]'
    assert read_calls(answer) == [("f", '{"ä": [1, 2.5]}'), ("g", "{ }")]
    assert read_calls("[]") == []


def test_the_form_of_each_call() -> None:
    assert one_of(["red"]).each_call() == {}
    forms = calls_of(TOOLS, 3).each_call()
    assert list(forms) == list(TOOLS)
    for name, form in forms.items():
        (kind,) = json.loads(form.alone())["format"]["json_schema"]["items"]["anyOf"]
        assert kind["properties"]["name"]["const"] == name
