"""Stop strings for requests that detokenize nothing, on which vLLM can't stop by text.

Such a request stops by token where each stop string is a single token; a sample in which the model spelled a stop
string otherwise is cut here. The result is the sample that stop strings would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mirl_core.engines.base import Sample


def stop_by_token(stop: Sequence[str], encode: Callable[[str], tuple[int, ...]]) -> dict[str, Any] | None:
    """vLLM's sampling fields for stopping without detokenizing; None where a stop string isn't one token."""
    tokens = [encode(text) for text in stop]
    if any(len(ids) != 1 for ids in tokens):
        return None
    return {"stop_token_ids": [ids[0] for ids in tokens], "detokenize": False}


def cut_at_stop_string(sample: Sample, stop: Sequence[str], decode: Callable[[Sequence[int]], str]) -> Sample:
    """The sample with its text, ended by the token that completes the first stop string."""
    ids = sample.token_ids
    text = decode(ids)
    ends = [at + len(end) for end in stop if (at := text.find(end)) >= 0]
    if not ends or min(ends) == len(text):
        return replace(sample, text=text)
    length = next(n for n in range(1, len(ids) + 1) if any(end in decode(ids[:n]) for end in stop))
    return replace(
        sample,
        token_ids=ids[:length],
        logprobs=sample.logprobs[:length],
        text=text[: min(ends)],
        finish_reason="stop",
        confidence=sample.confidence[:length],
        likeliest=sample.likeliest[:length],
    )
