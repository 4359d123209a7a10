"""Reasoning and answer of a chain's text.

Guarantees: the answer is a substring of the text, without the surrounding white space and never with a tag in
it; a chain that was cut off has an answer only if the answer was closed; linear in the text.
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
    """Reasoning and answer of one chain."""

    reasoning: str
    """Without tags."""
    answer: str | None
    """None where the chain has no answer."""
    start: int = 0
    """Index in the text where the answer begins; characters."""
    calls: bool = False
    """Whether the answer is tool calls as JSON, which is no part of the text."""


def extract(text: str, tags: Tags, finished: bool) -> tuple[str, str | None]:
    """Return the reasoning and the answer of `locate`."""
    located = locate(text, tags, finished)
    return located.reasoning, located.answer


def locate(text: str, tags: Tags, finished: bool) -> Extract:
    """Split a chain's text, as it follows the description, into reasoning and answer.

    The answer is the first that exists of: the text between the answer tags (the last closed pair; an open
    one only where the chain `finished`); the text after a marker (`\\boxed{…}`, "final answer is …", a last
    line "answer: …"); the whole text after the reasoning. The text after the reasoning is searched before
    the reasoning.

    Args:
        text: the chain, with or without the reasoning's opening tag, which may have been prefilled.
        tags: the model's markup.
        finished: the chain ended by itself (end of turn, stop string), not at a length limit or an abort.
    """
    reasoning, answer, begin = _split(text, tags, finished)
    # Tags and white space were stripped from its front; with a tag inside it the answer is no substring.
    start = text.find(answer, begin) if answer is not None else 0
    return Extract(reasoning, answer, start if start >= 0 else begin)


def _split(text: str, tags: Tags, finished: bool) -> tuple[str, str | None, int]:
    """Return reasoning, answer, and an index in the text at or before the beginning of the answer."""
    opening, closing = tags.reasoning
    reasoning, closed, body = text.partition(closing)
    if not closed:
        # Without an end, the whole text is reasoning if that was opened, else it may all be the answer.
        if text.lstrip().startswith(opening):
            return _search(text, tags, finished) or (_clean(text, tags), None, 0)
        return _search(text, tags, finished) or (*_whole("", text, tags, finished), 0)
    after = len(reasoning) + len(closing)
    if match := _search(body, tags, finished):
        before, answer, begin = match
        return _join(_clean(reasoning, tags), before), answer, after + begin
    if _clean(body, tags):
        return (*_whole(reasoning, body, tags, finished), after)
    return _search(reasoning, tags, finished) or (_clean(reasoning, tags), None, 0)


def _search(region: str, tags: Tags, finished: bool) -> tuple[str, str, int] | None:
    """Return the text before the answer, the answer, and its index, where tags or a marker show it."""
    opening, closing = tags.answer
    end = region.rfind(closing)
    start = region.rfind(opening, 0, end) if end >= 0 else -1
    if start < 0 and finished:
        start, end = region.rfind(opening), len(region)
        # The answer runs to the end, unless the chain ended inside a closing tag.
        cut = region.rfind(closing[:2], start + len(opening)) if start >= 0 else -1
        if cut >= 0 and closing.startswith(region[cut:]):
            end = cut
    if start >= 0 and (answer := _clean(region[start + len(opening) : end], tags)):
        return _clean(region[:start], tags), answer, start + len(opening)
    if not finished:
        return None
    for marker, begin, content in (_boxed(region), _after_marker(region)):
        if answer := _clean(content, tags):
            return _clean(region[:marker], tags), answer, begin
    return None


def _boxed(region: str) -> tuple[int, int, str]:
    """Return the last `\\boxed{…}` whose braces balance: its index, its content's index, and the content."""
    marker = region.rfind("\\boxed{")
    if marker < 0:
        return 0, 0, ""
    depth = 0
    for offset in range(marker + len("\\boxed"), len(region)):
        depth += {"{": 1, "}": -1}.get(region[offset], 0)
        if depth == 0:
            begin = marker + len("\\boxed{")
            return marker, begin, region[begin:offset]
    return 0, 0, ""


def _after_marker(region: str) -> tuple[int, int, str]:
    """Return the index of the marker, the index of the answer, and the answer; empty where there is none."""
    if matches := list(_FINAL_ANSWER.finditer(region)):
        return matches[-1].start(), matches[-1].start(1), _plain(matches[-1][1])
    stripped = region.rstrip()
    last_line = stripped.rfind("\n") + 1
    if line := _ANSWER_LINE.fullmatch(stripped, last_line):
        return last_line, line.start(1), _plain(line[1])
    return 0, 0, ""


def _plain(line: str) -> str:
    """Return the line without Markdown's emphasis, and without its end where it encloses the marker."""
    return re.sub(r"\*\*(.+?)\*\*", r"\1", line).strip().removesuffix("**")


def _whole(reasoning: str, body: str, tags: Tags, finished: bool) -> tuple[str, str | None]:
    if not finished:
        return _clean(reasoning or body, tags), None
    return _clean(reasoning, tags), _clean(body, tags) or None


def _clean(text: str, tags: Tags) -> str:
    return without_tags(text, tags.description, tags.reasoning, tags.answer)


def without_tags(text: str, *pairs: tuple[str, str]) -> str:
    """Return `text` without the opening and closing tags in `pairs` and the white space around it."""
    for opening, closing in pairs:
        text = text.replace(opening, "").replace(closing, "")
    return text.strip()


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
