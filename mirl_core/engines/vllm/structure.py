"""Checks, before sampling, whether vLLM can hold samples to a structural tag."""

from __future__ import annotations

from vllm.config import StructuredOutputsConfig
from vllm.exceptions import VLLMError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import (
    has_xgrammar_unsupported_json_features,
    validate_xgrammar_grammar,
)

from mirl_core.engines.common.structures import check_structural_tag, structure_refused
from mirl_core.errors import RequestError

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
    check_structural_tag(structure, has_xgrammar_unsupported_json_features)
    try:
        validate_xgrammar_grammar(
            SamplingParams(structured_outputs=StructuredOutputsParams(structural_tag=structure))
        )
    except (VLLMError, ValueError) as error:
        raise structure_refused(str(error.__cause__ or error)) from error
