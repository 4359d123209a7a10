"""A chain's text → its reasoning and its answer.

Guarantees: the answer is a substring of what the model wrote, without the surrounding whitespace and never
with a tag in it; a chain that was cut off has an answer only if it had closed it; linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirl_core.config import Tags

# A marker such as "Final answer: 12" or "the final answer is 12", up to the end of the line.
_IS = r"\**(?:\s+is\b:?|\s*[:=])\**\s*"
_FINAL_ANSWER = re.compile(rf"final answer{_IS}([^\n]+)", re.I)
_ANSWER_LINE = re.compile(rf"[^\w\n]*(?:the )?answer{_IS}(.+)", re.I)


@dataclass(frozen=True, slots=True)
class Extract:
    """What a chain's text says."""

    reasoning: str
    """Without tags."""
    answer: str | None
    """None where there is none."""
    start: int = 0
    """Where in the text the answer begins."""
    calls: bool = False
    """The answer is tool calls as JSON, and no part of the text."""


def extract(text: str, tags: Tags, finished: bool) -> tuple[str, str | None]:
    """The reasoning and the answer of `locate`."""
    found = locate(text, tags, finished)
    return found.reasoning, found.answer


def locate(text: str, tags: Tags, finished: bool) -> Extract:
    """Split a chain's text, as it follows the description, into reasoning and answer.

    The answer is what stands, in this order: between the answer tags (the last closed pair; left open only
    where the chain `finished`); after a marker (`\\boxed{…}`, "final answer is …", a last line "answer: …");
    in the whole text after the reasoning. What follows the reasoning is looked through before the reasoning.

    Args:
        text: the chain, with or without the reasoning's opening tag, which may have been prefilled.
        tags: the model's markup.
        finished: the chain ended by itself (end of turn, stop string), not at a length limit or an abort.
    """
    reasoning, answer, begin = _split(text, tags, finished)
    # Taking tags or white space off its front moved where it begins; a tag within it leaves no such place.
    start = text.find(answer, begin) if answer is not None else 0
    return Extract(reasoning, answer, start if start >= 0 else begin)


def _split(text: str, tags: Tags, finished: bool) -> tuple[str, str | None, int]:
    """Reasoning, answer, and a place in the text behind which the answer begins."""
    opening, closing = tags.reasoning
    reasoning, closed, body = text.partition(closing)
    if not closed:
        # No end of the reasoning: all of it is, if it was opened, else all of it may be the answer.
        if text.lstrip().startswith(opening):
            return _search(text, tags, finished) or (_clean(text, tags), None, 0)
        return _search(text, tags, finished) or (*_whole("", text, tags, finished), 0)
    after = len(reasoning) + len(closing)
    if found := _search(body, tags, finished):
        before, answer, begin = found
        return _join(_clean(reasoning, tags), before), answer, after + begin
    if _clean(body, tags):
        return (*_whole(reasoning, body, tags, finished), after)
    return _search(reasoning, tags, finished) or (_clean(reasoning, tags), None, 0)


def _search(region: str, tags: Tags, finished: bool) -> tuple[str, str, int] | None:
    """What stands before the answer, the answer, and where it begins, where tags or a marker show it."""
    opening, closing = tags.answer
    end = region.rfind(closing)
    start = region.rfind(opening, 0, end) if end >= 0 else -1
    if start < 0 and finished:
        start, end = region.rfind(opening), len(region)
        # Nothing closes it, unless a tag was begun when the chain ended.
        cut = region.rfind(closing[:2], start + len(opening)) if start >= 0 else -1
        if cut >= 0 and closing.startswith(region[cut:]):
            end = cut
    if start >= 0 and (answer := _clean(region[start + len(opening) : end], tags)):
        return _clean(region[:start], tags), answer, start + len(opening)
    if not finished:
        return None
    for place, begin, found in (_boxed(region), _after_marker(region)):
        if answer := _clean(found, tags):
            return _clean(region[:place], tags), answer, begin
    return None


def _boxed(region: str) -> tuple[int, int, str]:
    """Where the last `\\boxed{…}` whose braces balance is, where its content begins, and the content."""
    place = region.rfind("\\boxed{")
    if place < 0:
        return 0, 0, ""
    depth = 0
    for offset in range(place + len("\\boxed"), len(region)):
        depth += {"{": 1, "}": -1}.get(region[offset], 0)
        if depth == 0:
            begin = place + len("\\boxed{")
            return place, begin, region[begin:offset]
    return 0, 0, ""


def _after_marker(region: str) -> tuple[int, int, str]:
    if marked := list(_FINAL_ANSWER.finditer(region)):
        return marked[-1].start(), marked[-1].start(1), _plain(marked[-1][1])
    stripped = region.rstrip()
    place = stripped.rfind("\n") + 1
    if line := _ANSWER_LINE.fullmatch(stripped, place):
        return place, line.start(1), _plain(line[1])
    return 0, 0, ""


def _plain(line: str) -> str:
    """Without Markdown's emphasis, and without its end where the marker was inside it: `**Answer: 12**`."""
    return re.sub(r"\*\*(.+?)\*\*", r"\1", line).strip().removesuffix("**")


def _whole(reasoning: str, body: str, tags: Tags, finished: bool) -> tuple[str, str | None]:
    if not finished:
        return _clean(reasoning or body, tags), None
    return _clean(reasoning, tags), _clean(body, tags) or None


def _clean(text: str, tags: Tags) -> str:
    for tag in (*tags.description, *tags.reasoning, *tags.answer):
        text = text.replace(tag, "")
    return text.strip()


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
