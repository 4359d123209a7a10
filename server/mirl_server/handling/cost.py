"""The cost of a plain request, as admission counts it: sequences and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTHS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def plain_cost(body: Mapping[str, Any], max_model_len: int) -> tuple[int, int]:
    """Return the most sequences and tokens that a plain request may sample, at any endpoint of the backend.

    A value of the wrong type or size is the backend's to refuse, and falls back to the default here.

    Args:
        max_model_len: tokens of a sequence whose length the request does not limit.
    """
    sampling = body.get("sampling_params")
    fields = {**body, **(sampling if isinstance(sampling, dict) else {})}
    sequences = _whole_number(fields.get("n"), 1) * _prompts(body)
    length = next(
        (_whole_number(fields[name], max_model_len) for name in _LENGTHS if fields.get(name) is not None),
        max_model_len,
    )
    return sequences, sequences * min(length, max_model_len)


def _prompts(body: Mapping[str, Any]) -> int:
    """Return the number of prompts in a body: of completions, a batch of conversations, or items to score."""
    for prompts in (body.get("prompt"), body.get("messages"), body.get("items"), body.get("questions")):
        if isinstance(prompts, dict) and prompts:
            return len(prompts)
        # A list of token ids is one prompt; a list of messages, which are dicts, is one conversation.
        if isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list):
            return len(prompts)
    return 1


def _whole_number(value: object, default: int) -> int:
    # The backend accepts "8" for 8.
    try:
        number = int(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return number if number >= 1 else default
