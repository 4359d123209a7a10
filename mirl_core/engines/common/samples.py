"""Samples as every engine returns them: their end, text up to a stop string, confidence, likeliest tokens.

vLLM can't stop a request without detokenization by text. Such a request stops by token, which requires that
each stop string is a single token. Where the model spells a stop string with other tokens, the sample is cut
afterwards. The result equals that of stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mirl_core.engines.base import Sample
from mirl_core.errors import EngineError
from mirl_core.types import FinishReason


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


def empty_sample(index: int, reason: FinishReason) -> Sample:
    """Return the sample of a branch that ended before its first token."""
    return Sample(index, (), (), "", reason)


def likeliest_first(logprobs: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    """Return tokens and their log p, the likeliest first."""
    return tuple(sorted(logprobs.items(), key=lambda item: -item[1]))


def token_confidence(likeliest: Sequence[float]) -> float:
    """Return a token's confidence from log p of the likeliest tokens at its position, nats; see `Sample`.

    Raises:
        ValueError: there are none.
    """
    if not likeliest:
        raise ValueError("a position without likeliest tokens has no confidence")
    return -sum(likeliest) / len(likeliest)


def checked_finish_reason(reason: object, where: str = "vLLM") -> FinishReason:
    """Return the reason for a sample's end.

    Args:
        where: what ended the sample, for the message.

    Raises:
        EngineError: it is a failure, or unknown.
    """
    if reason in ("stop", "length", "abort"):
        return reason
    raise EngineError(f"{where} ended a request with {reason!r}")
