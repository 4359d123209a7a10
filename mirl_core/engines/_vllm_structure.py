"""Whether vLLM can hold samples to a structural tag, found out before anything is sampled."""

from __future__ import annotations

import json
from typing import Any

from vllm.exceptions import VLLMError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import (
    has_xgrammar_unsupported_json_features,
    validate_xgrammar_grammar,
)

from mirl_core.errors import RequestError

BACKENDS = ("auto", "xgrammar")
"""vLLM's structured-output backends that know structural tags of this form."""


def check_structure(structure: str, backend: str) -> None:
    """Parse a structural tag as vLLM will; takes milliseconds and more, depending on its schema.

    Args:
        backend: vLLM's structured-output backend.

    Raises:
        RequestError: the backend doesn't know such tags, or the schema is wrong or goes beyond it.
    """
    if backend not in BACKENDS:
        raise RequestError(
            f"this server's structured-output backend, {backend}, can't constrain a part of an answer; "
            "xgrammar can"
        )
    for schema in _schemas(json.loads(structure)):
        # vLLM looks for these in plain schemas only; in a structural tag they would be ignored.
        if has_xgrammar_unsupported_json_features(schema):
            raise RequestError("the schema uses a keyword that xgrammar can't enforce")
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
