"""A chain's text → its reasoning and its answer.

Guarantees: the answer is a substring of what the model wrote, without the surrounding whitespace and never
with a tag in it; a chain that was cut off has an answer only if it had closed it; linear in the text.
"""

from __future__ import annotations

import re

from mirl_core.config import Tags

# A marker such as "Final answer: 12" or "the final answer is 12", up to the end of the line.
_IS = r"\**(?:\s+is\b:?|\s*[:=])\**\s*"
_FINAL_ANSWER = re.compile(rf"final answer{_IS}([^\n]+)", re.I)
_ANSWER_LINE = re.compile(rf"[^\w\n]*(?:the )?answer{_IS}(.+)", re.I)


def extract(text: str, tags: Tags, finished: bool) -> tuple[str, str | None]:
    """Split a chain's text, as it follows the description, into (reasoning, answer).

    The answer is what stands, in this order: between the answer tags (the last closed pair; left open only
    where the chain `finished`); after a marker (`\\boxed{…}`, "final answer is …", a last line "answer: …");
    in the whole text after the reasoning. What follows the reasoning is looked through before the reasoning.

    Args:
        text: the chain, with or without the reasoning's opening tag, which may have been prefilled.
        tags: the model's markup.
        finished: the chain ended by itself (end of turn, stop string), not at a length limit or an abort.

    Returns:
        The reasoning without tags, and the answer; None where there is none.
    """
    opening, closing = tags.reasoning
    reasoning, closed, body = text.partition(closing)
    if not closed:
        # No end of the reasoning: all of it is, if it was opened, else all of it may be the answer.
        if text.lstrip().startswith(opening):
            return _search(text, tags, finished) or (_clean(text, tags), None)
        return _search(text, tags, finished) or _whole("", text, tags, finished)
    if found := _search(body, tags, finished):
        before, answer = found
        return _join(_clean(reasoning, tags), before), answer
    if _clean(body, tags):
        return _whole(reasoning, body, tags, finished)
    return _search(reasoning, tags, finished) or (_clean(reasoning, tags), None)


def _search(region: str, tags: Tags, finished: bool) -> tuple[str, str] | None:
    """What stands before the answer, and the answer, where tags or a marker show it."""
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
        return _clean(region[:start], tags), answer
    if not finished:
        return None
    for place, found in (_boxed(region), _after_marker(region)):
        if answer := _clean(found, tags):
            return _clean(region[:place], tags), answer
    return None


def _boxed(region: str) -> tuple[int, str]:
    """The content of the last `\\boxed{…}` whose braces balance."""
    place = region.rfind("\\boxed{")
    if place < 0:
        return 0, ""
    depth = 0
    for offset in range(place + len("\\boxed"), len(region)):
        depth += {"{": 1, "}": -1}.get(region[offset], 0)
        if depth == 0:
            return place, region[place + len("\\boxed{") : offset]
    return 0, ""


def _after_marker(region: str) -> tuple[int, str]:
    if marked := list(_FINAL_ANSWER.finditer(region)):
        return marked[-1].start(), _plain(marked[-1][1])
    stripped = region.rstrip()
    place = stripped.rfind("\n") + 1
    if line := _ANSWER_LINE.fullmatch(stripped, place):
        return place, _plain(line[1])
    return 0, ""


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
