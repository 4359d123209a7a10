"""From sampled tokens to segments: where a description ends, and whether it may go on.

A trajectory is one assistant turn of three segments, each between its tags:
`<description>…</description><think>…</think><answer>…</answer>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirl_core.config import Tags
from mirl_core.engines.base import Sample
from mirl_core.types import Description

Decode = Callable[[Sequence[int]], str]


def read_description(sample: Sample, tags: Tags, decode: Decode) -> Description:
    """A sampled description with its content measured, or with the `reason` why it can't go on.

    `truncated`: no closing tag within the budget. `unparsable`: the turn ended without the closing tag, or
    another segment's tag stands inside. `empty`: nothing but white space.
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
    """How many leading tokens spell `content`; tokens.

    A token that holds the end of the content and the start of the closing tag counts as content: leaving it
    out would leave out content.
    """
    length = len(token_ids)
    while length and decode(token_ids[: length - 1])[: len(content)] == content:
        length -= 1
    return length


def cut_at_stop(answer: str, stop: Sequence[str]) -> str:
    """`answer` up to the first of the user's stop strings: they apply to the answer, not to the thinking."""
    places = [place for place in (answer.find(text) for text in stop if text) if place >= 0]
    return answer[: min(places)] if places else answer
