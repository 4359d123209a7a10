"""Schemas keep their meaning where they are embedded, by jsonschema's own reading of both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft7Validator, Draft201909Validator, Draft202012Validator

from mirl_core.algorithm.answers.forms import calls_of, json_schema
from mirl_core.engines.common.json_schemas import nodes, self_contained, side_by_side
from mirl_core.errors import RequestError

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
Schema = dict[str, Any]


def record(**properties: Any) -> Schema:
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def embedded(*tools: Schema) -> Schema:
    """Return the schema of calls of the tools `tool0`, `tool1`, …; references are of the one form."""
    content = calls_of({f"tool{number}": tool for number, tool in enumerate(tools)}, 4).content["json_schema"]
    for node in nodes(content):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in content["$defs"]
    return content


def agrees(tool: Schema, value: Any, validator: Any = Draft202012Validator, *others: Schema) -> bool:
    """Check that a value is valid arguments just where the tool's own schema takes it; return whether."""
    expected: bool = validator(tool).is_valid(value)
    call = [{"name": "tool0", "arguments": value}]
    assert Draft202012Validator(embedded(tool, *others)).is_valid(call) is expected
    assert Draft202012Validator(self_contained(tool)).is_valid(value) is expected
    return expected


TREE = record(value=DIGIT) | {"properties": {"value": DIGIT, "next": {"$ref": "#"}}}
FORMS: dict[str, tuple[Schema, list[Any], list[Any]]] = {
    # what refers: the schema, values that it takes, values that it refuses
    "a pointer into properties": (
        record(source=record(row=DIGIT), target={"$ref": "#/properties/source"}),
        [{"source": {"row": 1}, "target": {"row": 2}}],
        [{"source": {"row": 1}, "target": {"row": 20}}, {"source": {"row": 1}, "target": 1}],
    ),
    "a pointer into a pointer's end": (
        record(
            a=record(b=record(c=DIGIT)), d={"$ref": "#/properties/a/properties/b"},
            e={"$ref": "#/properties/d"}, f={"$ref": "#/properties/a/properties/b/properties/c"},
        ),
        [{"a": {"b": {"c": 1}}, "d": {"c": 2}, "e": {"c": 3}, "f": 4}],
        [{"a": {"b": {"c": 1}}, "d": {"c": 2}, "e": {"c": "x"}, "f": 4},
         {"a": {"b": {"c": 1}}, "d": {"c": 2}, "e": {"c": 3}, "f": 40}],
    ),
    "definitions": (record(a={"$ref": "#/definitions/C"}) | {"definitions": {"C": DIGIT}},
                    [{"a": 1}], [{"a": 10}, {"a": "1"}]),
    "$defs": (record(a={"$ref": "#/$defs/C"}) | {"$defs": {"C": DIGIT}}, [{"a": 1}], [{"a": 10}]),
    "the root": (TREE, [{"value": 1, "next": {"value": 2}}], [{"value": 1, "next": {"value": "x"}}]),
    "the root, from a definition": (
        record(a={"$ref": "#/$defs/all"}) | {"$defs": {"all": {"anyOf": [DIGIT, {"$ref": "#"}]}}},
        [{"a": 1}, {"a": {"a": 2}}], [{"a": {"a": 20}}],
    ),
    "definitions that refer to each other": (
        record(a={"$ref": "#/$defs/A"})
        | {"$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/B"}},
                     "B": {"anyOf": [DIGIT, {"$ref": "#/$defs/A"}]}}},
        [{"a": []}, {"a": [1, [2, []]]}], [{"a": 1}, {"a": [[["x"]]]}],
    ),
    "names that need escapes": (
        record(a={"$ref": "#/$defs/a~1b"}, b={"$ref": "#/$defs/m~0n"}, c={"$ref": "#/$defs/50%25%20off"})
        | {"$defs": {"a/b": DIGIT, "m~n": {"type": "string"}, "50% off": {"type": "boolean"}}},
        [{"a": 1, "b": "x", "c": True}], [{"a": "x", "b": "x", "c": True}, {"a": 1, "b": "x", "c": 1}],
    ),
    "an anchor": (record(a={"$ref": "#digit"}) | {"$defs": {"C": DIGIT | {"$anchor": "digit"}}},
                  [{"a": 1}], [{"a": 10}, {"a": "x"}]),
    "a schema with an $id": (
        record(a={"$ref": "digit.json"}, b={"$ref": "/all/digit.json"}, c={"$ref": "https://x.example/all/digit.json#"})
        | {"$id": "https://x.example/all/root.json", "$defs": {"C": DIGIT | {"$id": "digit.json"}}},
        [{"a": 1, "b": 2, "c": 3}], [{"a": 10, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": "x"}],
    ),
    "its own $id": (
        record(a={"$ref": "root.json#/$defs/C"})
        | {"$id": "https://x.example/root.json", "$defs": {"C": DIGIT}},
        [{"a": 1}], [{"a": 10}],
    ),
    "pointers within an inner $id": (
        record(a={"$ref": "#/$defs/inner"})
        | {"$defs": {
            "inner": record(b={"$ref": "#/$defs/C"}) | {"$id": "https://x.example/i", "$defs": {"C": DIGIT}},
            "C": {"type": "string"},
        }},
        [{"a": {"b": 1}}], [{"a": {"b": "x"}}],
    ),
    "a pointer across an inner $id": (
        record(a={"$ref": "#/$defs/inner/properties/b"})
        | {"$defs": {
            "inner": record(b=record(c={"$ref": "#/$defs/C"}))
            | {"$id": "https://x.example/i", "$defs": {"C": DIGIT}},
            "C": {"type": "string"},
        }},
        [{"a": {"c": 1}}], [{"a": {"c": "x"}}],
    ),
    "an anchor of an inner $id": (
        record(a={"$ref": "https://x.example/i#digit"})
        | {"$defs": {"inner": {"$id": "https://x.example/i", "$defs": {"C": DIGIT | {"$anchor": "digit"}}}}},
        [{"a": 1}], [{"a": 10}],
    ),
    "a dynamic reference": (
        record(a={"$dynamicRef": "#d"}) | {"$defs": {"C": DIGIT | {"$dynamicAnchor": "d"}}},
        [{"a": 1}], [{"a": 10}],
    ),
    "a place in a list": (
        {"type": "array", "prefixItems": [DIGIT, {"$ref": "#/prefixItems/0"}], "items": False},
        [[1, 2]], [[1, 20], [1, 2, 3]],
    ),
    "constraints beside the reference": (
        record(a={"$ref": "#/$defs/C", "multipleOf": 2, "title": "even"}) | {"$defs": {"C": DIGIT}},
        [{"a": 2}], [{"a": 3}, {"a": 20}],
    ),
    "constraints that contradict": (
        record(a={"$ref": "#/$defs/C", "maximum": 5}) | {"$defs": {"C": DIGIT}}, [{"a": 5}], [{"a": 6}]
    ),
    "properties beside the reference": (
        {"$ref": "#/$defs/C", "properties": {"b": DIGIT}} | {"$defs": {"C": {"properties": {"a": DIGIT}}}},
        [{"a": 1, "b": 1}], [{"a": 10}, {"b": 10}],
    ),
    "a property of that name": (
        record(**{"$ref": DIGIT, "$id": {"type": "string"}, "$defs": {"$ref": "#/$defs/$defs"}})
        | {"$defs": {"$defs": {"type": "boolean"}}},
        [{"$ref": 1, "$id": "x", "$defs": True}], [{"$ref": 1, "$id": "x", "$defs": 1}],
    ),
    "data that looks like one": (
        record(a={"const": {"$ref": "#/nowhere"}}, b={"enum": [{"$ref": "https://x.example"}]}),
        [{"a": {"$ref": "#/nowhere"}, "b": {"$ref": "https://x.example"}}], [{"a": 1, "b": 1}],
    ),
    "a schema that takes all": (
        record(a={"$ref": "#/$defs/any"}) | {"$defs": {"any": True}}, [{"a": [1]}], [{}]
    ),
    "a place that no keyword names": (
        record(a={"$ref": "#/x-shared/digit"}) | {"x-shared": {"digit": DIGIT}}, [{"a": 1}], [{"a": 10}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_references_of_every_form_keep_their_meaning(name: str) -> None:
    schema, takes, refuses = FORMS[name]
    # Another tool with the same names, which mean something else there.
    other = record(a={"$ref": "#/$defs/C"}) | {
        "$defs": {key: {"type": "null"} for key in ("C", "A", "inner", "any")}
    }
    for value in takes:
        assert agrees(schema, value, Draft202012Validator, other)
    for value in refuses:
        assert not agrees(schema, value, Draft202012Validator, other)


@pytest.mark.parametrize("name", sorted(set(FORMS) - {
    "constraints beside the reference", "constraints that contradict", "properties beside the reference",
    "data that looks like one",
}))  # fmt: skip
def test_xgrammar_holds_answers_to_them(name: str) -> None:
    """Compact JSON in the schema's own order, which is how xgrammar reads an object."""
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string

    schema, takes, refuses = FORMS[name]
    grammar = Grammar.from_structural_tag(json_schema(schema).alone())
    for values, taken in ((takes, True), (refuses, False)):
        for value in values:
            assert _is_grammar_accept_string(grammar, json.dumps(value)) is taken, value


OLD: dict[str, tuple[Any, Schema, list[Any], list[Any]]] = {
    "draft-07 ignores what stands beside a reference": (
        Draft7Validator, record(a={"$ref": "#/definitions/C", "maximum": 3}) | {"definitions": {"C": DIGIT}},
        [{"a": 9}], [{"a": 10}],
    ),
    "draft-07 writes anchors as an $id": (
        Draft7Validator, record(a={"$ref": "#digit"}) | {"definitions": {"C": DIGIT | {"$id": "#digit"}}},
        [{"a": 9}], [{"a": 10}],
    ),
    "draft-07 lists items, and the rest apart": (
        Draft7Validator,
        {"type": "array", "items": [DIGIT, {"$ref": "#/items/0"}], "additionalItems": {"type": "string"}},
        [[1, 2], [1, 2, "x"]], [[1, "x"], [1, 2, 3]],
    ),
    "draft-07 has dependencies of both kinds": (
        Draft7Validator,
        {
            "dependencies": {"a": ["b"], "c": {"$ref": "#/definitions/D"}},
            "definitions": {"D": {"required": ["d"]}},
        },
        [{"a": 1, "b": 1}, {"c": 1, "d": 1}, {}], [{"a": 1}, {"c": 1}],
    ),
    "draft-04 calls it id": (
        Draft4Validator,
        record(a={"$ref": "digit"})
        | {"id": "https://x.example/root", "definitions": {"C": DIGIT | {"id": "https://x.example/digit"}}},
        [{"a": 1}], [{"a": 10}],
    ),
    "2019-09 recurs by a keyword": (
        Draft201909Validator,
        {"$recursiveAnchor": True, "type": "object", "additionalProperties": {"$recursiveRef": "#"}},
        [{"a": {"b": {}}}], [{"a": {"b": 1}}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_old_drafts_keep_their_meaning(name: str) -> None:
    validator, schema, takes, refuses = OLD[name]
    schema = {"$schema": validator.META_SCHEMA.get("$schema")} | schema
    assert [agrees(schema, value, validator) for value in takes] == [True] * len(takes)
    assert [agrees(schema, value, validator) for value in refuses] == [False] * len(refuses)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("#/$defs/nowhere", "its reference '#/$defs/nowhere' leads nowhere"),
        ("#nowhere", "leads nowhere"),
        ("#/properties/a/type", "leads nowhere"),
        ("#/required/7", "leads nowhere"),
        ("#/required/0", "leads nowhere"),
        ("https://x.example/y.json", "another document"),
        ("other.json#/a", "another document"),
        ("http://[", "another document"),
        (3, "is no text"),
    ],
)
def test_references_that_lead_nowhere_are_named(reference: object, said: str) -> None:
    schema = record(a=DIGIT, b={"$ref": reference})
    for build in (json_schema, lambda tool: calls_of({"t": tool}, 1)):
        with pytest.raises(RequestError) as caught:
            build(schema)
        assert said in caught.value.message


def test_what_is_not_referred_to_may_be_wrong() -> None:
    schema = record(a=DIGIT) | {"$defs": {"unused": {"$ref": "https://x.example"}}, "$comment": "x"}
    assert self_contained(schema) == record(a=DIGIT)


def test_definitions_that_nothing_refers_to_stay_with_what_they_need() -> None:
    definitions = {"A": {"items": {"$ref": "#/$defs/B"}}, "B": DIGIT, "C": {"$ref": "#/definitions/D"}}
    schema = record(a=DIGIT) | {"$defs": definitions, "definitions": {"D": True, "E": DIGIT}}
    moved = self_contained(schema)
    assert moved["$defs"] == {"A": definitions["A"], "B": DIGIT, "C": {"$ref": "#/$defs/D"}, "D": True}


def test_schemas_without_references_stay_as_they_are() -> None:
    for schema in ({}, {"type": "object"}, record(a=DIGIT, b={"enum": [1, "x"], "description": "y"})):
        assert self_contained(schema) == schema
    plain = record(x={"$ref": "#/$defs/place"}) | {"$defs": {"place": {"type": "integer"}}}
    assert self_contained(plain) == plain


def test_parts_are_copied_once_each() -> None:
    # Each of the 60 nested parts is referred to: copies within copies would be 60 * 60 / 2 parts.
    schema: Schema = {"type": "string"}
    pointer = "#"
    for _ in range(60):
        schema = record(a=schema)
        pointer += "/properties/a"
    pointers = [pointer[: 1 + len("/properties/a") * depth] for depth in range(1, 61)]
    schema["properties"] |= {f"p{number}": {"$ref": each} for number, each in enumerate(pointers)}
    assert len(json.dumps(self_contained(schema))) < 4 * len(json.dumps(schema))


def test_definitions_of_several_tools_have_names_of_their_own() -> None:
    first = record(a={"$ref": "#/$defs/C"}) | {"$defs": {"C": DIGIT}}
    second = record(a={"$ref": "#/$defs/C"}) | {"$defs": {"C": {"type": "string"}}}
    apart = side_by_side({"one": first, "two": second})
    names = [set(schema["$defs"]) for schema in apart.values()]
    assert not names[0] & names[1]
    for own, moved in zip((first, second), apart.values(), strict=True):
        for value in ({"a": 1}, {"a": "x"}):
            assert Draft202012Validator(own).is_valid(value) is Draft202012Validator(moved).is_valid(value)


# Generated schemas: parts at places of several kinds, which refer to one another in several forms.
NAMES = ("a", "b", "a/b", "m~n", "50% off", "$ref", "été")
LEAVES = st.sampled_from([DIGIT, {"type": "string"}, {"type": "boolean"}, {"enum": [0, "a"]}, True])


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1").replace("%", "%25").replace(" ", "%20")


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """Draw a schema; references that lead to themselves without an object on the way are left out."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    root_id = draw(st.sampled_from(["", "https://x.example/dir/root.json", "urn:x"]))
    forms: list[list[str]] = []
    homes: list[tuple[str, str, str]] = []
    for number, name in enumerate(names):
        home = draw(st.sampled_from(["$defs", "definitions", "properties"]))
        mark = draw(st.sampled_from(["", "$anchor", "$id"]))
        pointer = f"#/{home}/{escaped(name)}"
        own = [pointer] + ([f"root.json{pointer}"] if "/" in root_id else [])
        own += {"": [], "$anchor": [f"#mark{number}"], "$id": [f"https://x.example/dir/p{number}.json"]}[mark]
        own += [f"p{number}.json"] if mark == "$id" and "/" in root_id else []
        forms.append(own)
        homes.append((home, name, mark))

    def reference(targets: list[list[str]], inside: bool) -> Schema:
        chosen = draw(st.sampled_from(draw(st.sampled_from(targets))))
        # Within a part of its own $id, a pointer must say which document it means.
        if inside and chosen.startswith("#"):
            return {"$ref": f"{root_id}{chosen}"} if "/" in root_id else {"type": "string"}
        beside = draw(st.sampled_from([{}, {}, {"description": "x"}, {"maximum": 4}, {"minProperties": 1}]))
        return {"$ref": chosen, **beside}

    def part(number: int, mark: str) -> Any:
        inside = mark == "$id"
        if forms[number + 1 :] and draw(st.booleans()):
            body: Any = reference(forms[number + 1 :], inside)
        elif draw(st.booleans()):
            body = draw(LEAVES)
        else:
            fields = draw(st.lists(st.sampled_from("abc"), max_size=2, unique=True))
            body = {"type": "object", "properties": {key: reference(forms, inside) for key in fields}}
            body |= {"required": fields[:1]} if draw(st.booleans()) else {}
        if mark == "$anchor" and body is not True:
            body = body | {"$anchor": f"mark{number}"}
        if inside and body is not True:
            body = body | {"$id": f"https://x.example/dir/p{number}.json"}
        return body

    schema: Schema = {"type": "object", "properties": {}} | ({"$id": root_id} if root_id else {})
    for number, (home, name, mark) in enumerate(homes):
        body = part(number, mark)
        if body is True and mark:
            body = {"$anchor": f"mark{number}"} if mark == "$anchor" else {"$id": forms[number][-1]}
        schema.setdefault(home, {})[name] = body
    for key in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)):
        whole = st.sampled_from([{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}])
        use = st.sampled_from(["part", "part", "list", "either", "whole"])
        kind = draw(use)
        if kind == "whole":
            value = draw(whole)
        else:
            value = reference(forms, inside=False)
            value = {"list": {"type": "array", "items": value}, "either": {"anyOf": [value, DIGIT]}}.get(
                kind, value
            )
        schema["properties"].setdefault(key, value)
    return schema


VALUES = st.recursive(
    st.sampled_from([0, 7, 12, "a", "x", True, None]),
    lambda inner: (
        st.dictionaries(st.sampled_from(["a", "b", "c", "d", "m~n"]), inner, max_size=3)
        | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(st.lists(schemas(), min_size=1, max_size=3), st.lists(VALUES, min_size=1, max_size=6))
def test_generated_tools_mean_what_they_meant(tools: list[Schema], values: list[Any]) -> None:
    whole = Draft202012Validator(embedded(*tools))
    for number, tool in enumerate(tools):
        alone, own = Draft202012Validator(tool), Draft202012Validator(self_contained(tool))
        for value in [*values, *({"a": value} for value in values)]:
            expected = alone.is_valid(value)
            assert whole.is_valid([{"name": f"tool{number}", "arguments": value}]) is expected
            assert own.is_valid(value) is expected
