"""Checks, before sampling, whether vLLM can hold samples to a structural tag."""

from __future__ import annotations

import json
import re
from typing import Any

from vllm.config import StructuredOutputsConfig
from vllm.exceptions import VLLMError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import (
    has_xgrammar_unsupported_json_features,
    validate_xgrammar_grammar,
)

from mirl_core.engines.common.json_schemas import ANOTHER_DOCUMENT, nodes
from mirl_core.errors import RequestError

UNENFORCEABLE = "it asks for something that xgrammar can't enforce"
_REASONS = (
    (r"(?i)unsupported type", "a type in it is none of JSON Schema's"),
    (r"(?i)regex|pattern", "a pattern in it is of a kind that xgrammar can't enforce"),
    (r"Cannot find field", "a reference in it leads nowhere"),
    (r"(?i)greater than|less than|invalid range|empty range", "a range in it is empty"),
    (r"(?i)cannot accept any|unsatisfiable", "no value is of that form"),
    (r"(?i)must be", "a keyword in it has a value of a wrong type"),
    (r"(?i)nest|recursion|too deep", "it is nested too deeply"),
)
"""Patterns in xgrammar's and vLLM's errors, with their meaning; the first that fits counts."""
BACKEND = "xgrammar"
"""The structured-output backend of vLLM that supports MIRL's structural tags."""


def choose_backend(config: StructuredOutputsConfig) -> None:
    """Set vLLM's backend to `BACKEND` unless the operator has chosen another.

    With `auto`, an engine keeps the backend of its first structured request for as long as it lives. If a
    plain request came first and needed another backend, every constrained fork would fail.
    """
    if config.backend == "auto":
        config.backend = BACKEND


def check_structure(structure: str, backend: str) -> None:
    """Parse a structural tag as vLLM does; takes milliseconds or more, depending on its schema.

    Args:
        structure: the tag, as JSON.
        backend: vLLM's structured-output backend.

    Raises:
        RequestError: the backend doesn't support structural tags, or the schema is wrong or unsupported.
    """
    if backend != BACKEND:
        raise RequestError(
            f"this server's structured-output backend, {backend}, can't constrain a part of an answer; "
            f"{BACKEND} can"
        )
    for schema in _schemas(json.loads(structure)):
        # vLLM checks only plain schemas for these keywords; in a structural tag xgrammar ignores them.
        if has_xgrammar_unsupported_json_features(schema):
            raise RequestError("the schema uses a keyword that xgrammar can't enforce")
        refs = {ref for node in nodes(schema) if isinstance(ref := node.get("$ref"), str)}
        if not all(ref.startswith("#") for ref in refs):
            # xgrammar accepts any value where a schema refers to another document.
            raise RequestError(ANOTHER_DOCUMENT)
        if _endless(schema, refs):
            # xgrammar accepts such a schema, but then allows no token, and the engine aborts the sequence.
            raise RequestError("the schema refers to itself without end: nothing is of that form")
    try:
        validate_xgrammar_grammar(
            SamplingParams(structured_outputs=StructuredOutputsParams(structural_tag=structure))
        )
    except (VLLMError, ValueError) as error:
        raise RequestError(f"the schema can't be used: {_reason(str(error.__cause__ or error))}") from error


def _reason(error: str) -> str:
    """Return what an error of xgrammar's means; its own words quote its source files."""
    return next((reason for pattern, reason in _REASONS if re.search(pattern, error)), UNENFORCEABLE)


def _schemas(node: Any) -> list[dict[str, Any]]:
    """Return the JSON schemas in a structural tag."""
    if isinstance(node, list):
        return [schema for child in node for schema in _schemas(child)]
    if not isinstance(node, dict):
        return []
    if node.get("type") == "json_schema":
        return [node["json_schema"]] if isinstance(node["json_schema"], dict) else []
    return [schema for child in node.values() for schema in _schemas(child)]


def _endless(schema: dict[str, Any], refs: set[str]) -> bool:
    """Return whether a reference in a schema leads back to itself without a finite value on the way."""
    targets = {ref: _referred(schema, ref) for ref in refs}
    ends: set[str] = set()
    order, before = sorted(refs), -1
    while len(ends) > before:
        before = len(ends)
        order.reverse()  # so that a chain of references takes at most two rounds, in either order
        for ref in order:
            if _ends(targets[ref], ends):
                ends.add(ref)
    return len(ends) < len(refs)


def _ends(node: Any, ends: set[str]) -> bool:
    if not isinstance(node, dict):
        return True
    if isinstance(ref := node.get("$ref"), str):
        return ref in ends
    kinds = node.get("anyOf") or node.get("oneOf")
    return any(_ends(kind, ends) for kind in kinds) if isinstance(kinds, list) else True


def _referred(schema: dict[str, Any], ref: str) -> Any:
    """Return the node that `#/$defs/name` refers to; None if there is none."""
    node: Any = schema
    for part in ref.split("/")[1:]:
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node
