"""Reasoning and answer of a chain's text.

Guarantees: the answer's characters stand in the text in this order, in a single piece where no tag and no
`**` is between them; it has no tag in it and no white space around it; a chain that was cut off has an answer
only if the answer was closed; linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirl_core.algorithm.answers.normalization import MAX_SHORT_LENGTH, normalize
from mirl_core.algorithm.answers.statements import CONCLUSION, find_statements
from mirl_core.config import Tags

_EMPHASIS = re.compile(r"\*\*(.+?)\*\*")
_OPEN_EMPHASIS = re.compile(r"\*\*(?=[.!]?$)")
# What may follow a value: the next sentence, or a reason.
_REMARK = re.compile(r"[.!](?=\s+[A-Z(\"'$\\*])|[.,;]?\s+(?:because|since|which)\s")
# A full stop behind a lone letter ends no sentence: "B. Cat".
_LETTER = re.compile(r"[A-Za-z]\.")
_VALUES = ("number", "math", "option")


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
    pair only where the chain `finished`); the last statement, whatever its form (`statements`: `\\boxed{…}`,
    "final answer is …", "Answer: …"), a value without the remarks behind it; a value after "therefore" on the
    last line; the whole text after the reasoning. The text after the reasoning is searched before the
    reasoning.

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
    for statement in reversed(find_statements(region)):
        if answer := _answer(_clean(_plain(region[statement.begin : statement.end]), tags)):
            return _clean(region[: statement.start], tags), answer, statement.begin
    return _conclusion(region, tags)


def _conclusion(region: str, tags: Tags) -> tuple[str, str, int] | None:
    """Return what a connective on the last line leads to, if that is a value: "Therefore, 5 cm."."""
    start = region.rstrip().rfind("\n") + 1
    lead = CONCLUSION.match(region[start:])
    if not lead or not lead[0].strip():
        return None
    answer = _answer(_clean(_plain(region[start + lead.end() :]), tags))
    if not answer or normalize(answer).kind not in (*_VALUES, "yes_no"):
        return None
    return _clean(region[:start], tags), answer, start + lead.end()


def _answer(content: str) -> str:
    """Return the answer in what follows a lead: without the remarks behind it where the answer is a value."""
    if (remark := _REMARK.search(content)) and remark.start() <= MAX_SHORT_LENGTH:
        value = content[: remark.start() + (content[remark.start()] in ".!")]
        if normalize(value).kind in _VALUES and not _LETTER.fullmatch(value):
            return value.strip()
    return content


def _plain(line: str) -> str:
    """Return the line without Markdown's emphasis, and without its end where it encloses the lead."""
    return _OPEN_EMPHASIS.sub("", _EMPHASIS.sub(r"\1", line).strip())


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
