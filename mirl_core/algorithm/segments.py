"""Segments of a trajectory: where a description ends, whether it is usable, where an answer is cut.

A trajectory is one assistant turn of three segments, each between its tags:
`<description>…</description><think>…</think><answer>…</answer>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirl_core.config import Tags
from mirl_core.engines.base import Sample
from mirl_core.types import Description

__all__ = ["content_length", "cut_at_stop", "read_description"]

Decode = Callable[[Sequence[int]], str]


def read_description(sample: Sample, tags: Tags, decode: Decode) -> Description:
    """Return a sampled description with the length of its content, and a `reason` where it is unusable.

    `truncated`: no closing tag within the token limit. `unparsable`: the turn ended without the closing tag,
    or the content holds another tag. `empty`: the content is white space.
    """
    opening, closing = tags.description
    text = decode(sample.token_ids)
    content, closed, _ = text.partition(closing)
    reason: str | None = None
    if not closed:
        reason = "unparsable" if sample.finish_reason == "stop" else "truncated"
    elif not content.strip():
        reason = "empty"
    elif any(tag in content for tag in (opening, *tags.reasoning, *tags.answer)):
        reason = "unparsable"
    length = content_length(sample.token_ids, content, decode) if closed else len(sample.token_ids)
    return Description(
        index=sample.index,
        text=content.strip(),
        token_ids=sample.token_ids,
        content_tokens=length,
        logprob=sum(sample.logprobs[:length]),
        reason=reason,
    )


def content_length(token_ids: Sequence[int], content: str, decode: Decode) -> int:
    """Return how many leading tokens spell `content`.

    A token that holds the end of the content and the start of the closing tag counts as content; without it a
    part of the content would be missing.
    """
    length = len(token_ids)
    while length and decode(token_ids[: length - 1])[: len(content)] == content:
        length -= 1
    return length


def cut_at_stop(answer: str, stop: Sequence[str]) -> str:
    """Return `answer` up to the first of the user's stop strings, which don't apply to the reasoning."""
    matches = [start for start in (answer.find(text) for text in stop if text) if start >= 0]
    return answer[: min(matches)] if matches else answer
