"""That vLLM can hold samples to structural tags, and whether to a given one, before anything is sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vllm.config import StructuredOutputsConfig
from vllm.exceptions import VLLMError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import (
    has_xgrammar_unsupported_json_features,
    validate_xgrammar_grammar,
)

from mirl_core.errors import RequestError

BACKEND = "xgrammar"
"""The one of vLLM's structured-output backends that knows structural tags of this form."""


def choose_backend(config: StructuredOutputsConfig) -> None:
    """Have vLLM use `BACKEND`, unless it was told to use another one.

    Left to choose, an engine keeps for all its life the backend that its first structured request needs,
    whoever sends that; after a plain request that needs another one, no constrained fork would succeed.
    """
    if config.backend == "auto":
        config.backend = BACKEND


def check_structure(structure: str, backend: str) -> None:
    """Parse a structural tag as vLLM will; takes milliseconds and more, depending on its schema.

    Args:
        backend: vLLM's structured-output backend.

    Raises:
        RequestError: the backend doesn't know such tags, or the schema is wrong or goes beyond it.
    """
    if backend != BACKEND:
        raise RequestError(
            f"this server's structured-output backend, {backend}, can't constrain a part of an answer; "
            f"{BACKEND} can"
        )
    for schema in _schemas(json.loads(structure)):
        # vLLM looks for these in plain schemas only; in a structural tag they would be ignored.
        if has_xgrammar_unsupported_json_features(schema):
            raise RequestError("the schema uses a keyword that xgrammar can't enforce")
        refs = {ref for node in _nodes(schema) if isinstance(ref := node.get("$ref"), str)}
        if not all(ref.startswith("#") for ref in refs):
            # To xgrammar anything is of a form that is elsewhere.
            raise RequestError("the schema refers to another document; put what it needs into its $defs")
        if _endless(schema, refs):
            # To xgrammar it is in order, but no token is allowed, and the engine gives the sequence up.
            raise RequestError("the schema refers to itself without end: nothing is of that form")
    try:
        validate_xgrammar_grammar(
            SamplingParams(structured_outputs=StructuredOutputsParams(structural_tag=structure))
        )
    except (VLLMError, ValueError) as error:
        # What is wrong with it stands in xgrammar's own error; vLLM's names only the structural tag.
        raise RequestError(f"the schema can't be used: {error.__cause__ or error}"[:400]) from error


def _schemas(node: Any) -> list[dict[str, Any]]:
    """The JSON schemas in a structural tag."""
    if isinstance(node, list):
        return [schema for one in node for schema in _schemas(one)]
    if not isinstance(node, dict):
        return []
    if node.get("type") == "json_schema":
        return [node["json_schema"]] if isinstance(node["json_schema"], dict) else []
    return [schema for one in node.values() for schema in _schemas(one)]


def _endless(schema: dict[str, Any], refs: set[str]) -> bool:
    """Whether a reference in a schema leads back to itself before anything is said."""
    places = {ref: _referred(schema, ref) for ref in refs}
    ends: set[str] = set()
    order, before = sorted(refs), -1
    while len(ends) > before:
        before = len(ends)
        order.reverse()  # a chain of references is followed in one round, whichever way it was written
        for ref in order:
            if _ends(places[ref], ends):
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
    """What `#/$defs/name` stands for; None for what is not there."""
    node: Any = schema
    for part in ref.split("/")[1:]:
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema."""
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
        todo += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
