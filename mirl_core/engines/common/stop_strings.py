"""Stop strings for requests without detokenization, which vLLM can't stop by text.

Such a request stops by token, which requires that each stop string is a single token. Where the model spells
a stop string with other tokens, the sample is cut afterwards. The result equals that of stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mirl_core.engines.base import Sample


def stop_by_token(stop: Sequence[str], encode: Callable[[str], tuple[int, ...]]) -> dict[str, Any] | None:
    """Return vLLM's sampling fields that stop by token; None if a stop string has several tokens."""
    encoded = [encode(text) for text in stop]
    if any(len(ids) != 1 for ids in encoded):
        return None
    return {"stop_token_ids": [ids[0] for ids in encoded], "detokenize": False}


def stop_string_end(text: str, stop: Sequence[str]) -> int | None:
    """Return the end of the stop string that ends first in `text`, in characters; None without any."""
    ends = [start + len(string) for string in stop if (start := text.find(string)) >= 0]
    return min(ends, default=None)


def cut_at_stop_string(sample: Sample, stop: Sequence[str], decode: Callable[[Sequence[int]], str]) -> Sample:
    """Return the sample with its text, cut after the token that completes the first stop string."""
    ids = sample.token_ids
    text = decode(ids)
    end = stop_string_end(text, stop)
    if end is None or end == len(text):
        return replace(sample, text=text)
    length = next(n for n in range(1, len(ids) + 1) if any(string in decode(ids[:n]) for string in stop))
    return replace(
        sample,
        token_ids=ids[:length],
        logprobs=sample.logprobs[:length],
        text=text[:end],
        finish_reason="stop",
        confidence=sample.confidence[:length],
        likeliest=sample.likeliest[:length],
    )
