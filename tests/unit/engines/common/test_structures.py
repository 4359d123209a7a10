"""Checks of structural tags without vLLM, which must find what vLLM finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.engines.common.structures import (
    check_structural_tag,
    has_unenforced_keywords,
    structure_refused,
)
from mirl_core.errors import RequestError

KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["integer", "number", "string", "array", "object", ["string", "null"], 3]),
    "multipleOf": st.integers(1, 3),
    "uniqueItems": st.booleans(),
    "contains": st.just({}),
    "minContains": st.just(1),
    "format": st.sampled_from(["email", "uuid", "colour", "date-time"]),
    "pattern": st.just("a+"),
    "minLength": st.just(1),
    "maxLength": st.just(9),
    "unevaluatedProperties": st.booleans(),
}


def _with_children(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    nested = {
        "properties": st.dictionaries(st.sampled_from("ab"), children, max_size=2),
        "patternProperties": st.dictionaries(st.sampled_from(["a+", "b+"]), children, max_size=2),
        "propertyNames": children,
        "items": children,
        "allOf": st.lists(children, max_size=2),
        "anyOf": st.lists(children, max_size=2),
    }
    return st.fixed_dictionaries({}, optional=KEYWORDS | nested)


schemas = st.recursive(st.fixed_dictionaries({}, optional=KEYWORDS), _with_children, max_leaves=6)


@given(schemas)
def test_the_same_schemas_are_unenforced_as_in_vllm(schema: dict[str, Any]) -> None:
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    assert has_unenforced_keywords(schema) == has_xgrammar_unsupported_json_features(schema)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "number", "multipleOf": 2}, "keyword"),
        ({"$ref": "other.json"}, "another document"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "without end"),
    ],
)
def test_what_would_not_be_enforced_is_refused(schema: dict[str, Any], says: str) -> None:
    tag = {"format": {"elements": [{"type": "json_schema", "json_schema": schema}]}}
    with pytest.raises(RequestError, match=says):
        check_structural_tag(json.dumps(tag))


def test_reasons_quote_no_source_files() -> None:
    error = structure_refused("[21:18:08] /project/cpp/json_schema_converter.cc:1053: Unsupported type 'x'")
    assert error.message == "the schema can't be used: a type in it is none of JSON Schema's"
    assert "/project" not in structure_refused("/project/cpp/x.cc: what?").message
