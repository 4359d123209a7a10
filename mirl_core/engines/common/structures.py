"""Checks of structural tags (xgrammar's JSON) that need no vLLM, and the meaning of its refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

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
_FORMATS = frozenset(
    {
        "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer",
        "relative-json-pointer", "time", "uri", "uri-reference", "uri-template", "uuid",
    }
)  # fmt: skip
"""Formats of strings that xgrammar enforces."""
_LENGTHS = frozenset({"minLength", "maxLength"})


def check_structural_tag(structure: str, unenforced: Callable[[dict[str, Any]], bool] | None = None) -> None:
    """Check the schemas in a structural tag for what xgrammar would silently not enforce.

    Args:
        structure: the tag, as JSON.
        unenforced: returns whether a schema has keywords that xgrammar ignores; None: the function below.

    Raises:
        RequestError: a schema is unsupported.
    """
    for schema in _schemas(json.loads(structure)):
        # vLLM checks only plain schemas for these keywords; in a structural tag xgrammar ignores them.
        if (unenforced or has_unenforced_keywords)(schema):
            raise RequestError("the schema uses a keyword that xgrammar can't enforce")
        refs = {ref for node in nodes(schema) if isinstance(ref := node.get("$ref"), str)}
        if not all(ref.startswith("#") for ref in refs):
            # xgrammar accepts any value where a schema refers to another document.
            raise RequestError(ANOTHER_DOCUMENT)
        if _endless(schema, refs):
            # xgrammar accepts such a schema, but then allows no token, and the engine aborts the sequence.
            raise RequestError("the schema refers to itself without end: nothing is of that form")


def structure_refused(message: str) -> RequestError:
    """Return the error for a structural tag that vLLM refuses; its own words quote its source files."""
    reason = next((reason for pattern, reason in _REASONS if re.search(pattern, message)), UNENFORCEABLE)
    return RequestError(f"the schema can't be used: {reason}")


def has_unenforced_keywords(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema has keywords, or pairs of them, that xgrammar ignores, anywhere in it."""
    pending: list[Any] = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, Mapping):
            if _unenforced(node):
                return True
            pending += node.values()
    return False


def _unenforced(node: Mapping[str, Any]) -> bool:
    """Return whether xgrammar ignores keywords of this very schema."""
    kind, keys = node.get("type"), node.keys()
    types = {kind} if isinstance(kind, str) else set(filter(_is_text, kind if isinstance(kind, list) else ()))
    of_properties = node.get("propertyNames")
    by_pattern = node.get("patternProperties")
    branches = node.get("allOf")
    return bool(
        (types & {"integer", "number"} and "multipleOf" in keys)
        or ("array" in types and keys & {"uniqueItems", "contains", "minContains", "maxContains"})
        or ("string" in types and "format" in keys and node["format"] not in _FORMATS)
        or ("string" in types and _bounded_pattern(node))
        or (
            "object" in types
            and "propertyNames" in keys
            and (
                (isinstance(of_properties, Mapping) and _bounded_pattern(of_properties))
                or keys & {"patternProperties", "properties"}
                or node.get("unevaluatedProperties", True) is not True
            )
        )
        or (
            "object" in types
            and isinstance(by_pattern, Mapping)
            and ("properties" in keys or len(by_pattern) > 1)
        )
        or (isinstance(branches, list) and len(branches) > 1)
    )


def _bounded_pattern(node: Mapping[str, Any]) -> bool:
    return bool(node.keys() & {"pattern", "format"} and node.keys() & _LENGTHS)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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
