"""Segments of a trajectory: where a description ends, whether it is usable, where an answer is cut.

A trajectory is one assistant turn of three segments, each between its tags:
`<description>…</description><think>…</think><answer>…</answer>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mirl_core.config import Tags
from mirl_core.engines.base import Sample
from mirl_core.types import Description

__all__ = ["content_length", "cut_at_stop", "description_stops", "read_description"]

Decode = Callable[[Sequence[int]], str]
Encode = Callable[[str], tuple[int, ...]]
_ELEMENT = re.compile(r"</(\w+)>")


def description_stops(tags: Tags, lenient: bool) -> tuple[str, ...]:
    """Return the strings that end a sampled description: its closing tag, if `lenient` the others too."""
    others = (*tags.reasoning, *tags.answer) if lenient else ()
    return tuple(dict.fromkeys(tag for tag in (tags.description[1], *others) if tag))


def read_description(sample: Sample, tags: Tags, decode: Decode, encode: Encode | None = None) -> Description:
    """Return a sampled description with the length of its content, and a `reason` where it is unusable.

    `truncated`: no closing tag within the token limit. `unparsable`: the turn ended without the closing tag,
    or the content holds another tag. `empty`: the content is white space.

    Args:
        encode: for a model that was never trained on the tags: returns the token ids of the closing tag. A
            description may then also end with another spelling of it, with the tag of the next segment, or
            with the turn, and begin with the opening tag once more; its tokens up to there go on, with the
            closing tag behind them.
    """
    opening, closing = tags.description
    text = decode(sample.token_ids)
    content, closed, _ = text.partition(closing)
    ids = sample.token_ids
    if encode is not None:
        end = _lenient_end(text, tags, sample.finish_reason == "stop")
        if end is not None and not (closed and end == len(content)):
            content = text[:end].rstrip()
            ids = sample.token_ids[: content_length(sample.token_ids, content, decode)]
            # Where a token spells the end of the content and the start of a tag, there is no exact end.
            closed = closing if decode(ids).rstrip() == content else ""
            ids = (*ids, *encode(closing))
    words = content.strip()
    if encode is not None and opening:
        words = words.removeprefix(opening).strip()
    reason: str | None = None
    if not closed:
        reason = "unparsable" if sample.finish_reason == "stop" else "truncated"
    elif not words:
        reason = "empty"
    elif any(tag in words for tag in (opening, *tags.reasoning, *tags.answer) if tag):
        reason = "unparsable"
    if not closed:
        ids = sample.token_ids
    length = content_length(ids, content, decode) if closed else len(ids)
    return Description(
        index=sample.index,
        text=words,
        token_ids=ids,
        content_tokens=length,
        logprob=sum(sample.logprobs[:length]),
        reason=reason,
    )


def _lenient_end(text: str, tags: Tags, finished: bool) -> int | None:
    """Return where the content of a description ends; None where nothing ends it."""
    closing = tags.description[1]
    ends = [text.find(tag) for tag in description_stops(tags, lenient=True)]
    if name := _ELEMENT.fullmatch(closing):
        other = re.search(rf"[<\[]\s*[/\\]\s*{name[1]}\s*[>\]]", text, re.IGNORECASE)
        ends.append(other.start() if other else -1)
    ends = [end for end in ends if end >= 0]
    return min(ends) if ends else len(text) if finished else None


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
