"""An answer's text → its kind and canonical key. Two answers are the same iff kind and key are equal.

number     1,000 = 1000 = 1000.0; twelve = 12; 1/2 = 0.5; 12 cm = 12cm ≠ 12 m ≠ 12; 50% = 50 percent ≠ 50
option     (B) = B. = option B = B) cat
yes_no     Yes. = yes, there is
short      the Red Car. = red car
json       any key order
tool_call  parsed name and arguments
math       \\frac{\\pi}{2} = \\pi/2 (mathematics.py)
prose      everything else: does not cluster
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from mirl_core.algorithm.answers import mathematics
from mirl_core.algorithm.answers.quantities import read_quantity, write_quantity
from mirl_core.algorithm.answers.structured import read_json

Kind = Literal["number", "option", "yes_no", "short", "json", "tool_call", "math", "prose"]

MAX_SHORT_WORDS = 5
MAX_SHORT_LENGTH = 64

_LEAD = re.compile(
    r"(?:so,? |thus,? )?(?:the )?(?:(?:correct|final|right) )?(?:answer|choice) ?(?:is:?|:) ?", re.I
)
_DELIMITERS = ("$$ $$", "$ $", "\\( \\)", "\\[ \\]", "** **", "` `", '" "', "“ ”", "' '", "‘ ’")
_OPTION = re.compile(
    r"(?:option|choice) \(?([a-z])\)?[.):]?(?: .{0,80})?"
    r"|\(([a-j])\)[.:]?(?: .{0,80})?"
    r"|([a-j])[).:](?: .{0,80})?"
    r"|([a-j])",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"(yes|no)(?:[.!]?|[.,!] [^\W\d].{0,79})", re.I)
# Ranges, dates and scores look like subtractions and divisions.
_NOT_MATHS = re.compile(r"[\d\s.,:/-]+")
_ARTICLES = frozenset({"a", "an", "the"})
_EDGES = ".,;:!?…。，！？、\"'“”‘’()[]{}<>*`_~"
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,2}")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: 0x20,
    0xA0: 0x20,
    0x202F: 0x20,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A normalised answer. Equal and hashable by kind and key."""

    kind: Kind
    key: str
    text: str = field(default="", compare=False)
    """The key in a form for people; the same but for mathematics."""

    @property
    def clusterable(self) -> bool:
        return self.kind != "prose"


def normalize(answer: str) -> Answer:
    """Kind and key of an answer. Never raises; linear in the answer, apart from bounded mathematics."""
    found = _normalize_short(answer) if len(answer) <= MAX_SHORT_LENGTH else None
    return _normalize(answer) if found is None else found


@lru_cache(maxsize=4096)
def _normalize_short(answer: str) -> Answer | None:
    """Cached because a vote is taken anew after every chain, over few different answers.

    A pure function of its argument: None for mathematics, which depends on what is installed and has a cache
    of its own.
    """
    return None if mathematics.looks_mathematical(answer) else _normalize(answer)


def _normalize(answer: str) -> Answer:
    text = answer.strip()
    if structured := read_json(text):
        return Answer(*structured, structured[1])
    if len(text) > 4 * MAX_SHORT_LENGTH:
        return _prose(text)
    bare = _bare(text)
    for rule in (_option, _yes_no, _number, _math, _short):
        if found := rule(bare):
            return found
    return _prose(text)


def equivalent(a: Answer, b: Answer) -> bool:
    """Whether two answers are the same."""
    return a == b


def group(answers: Sequence[str]) -> list[list[int]]:
    """Places of equal answers together, in order of first appearance; prose is equal only word for word."""
    groups: dict[Answer, list[int]] = {}
    for place, answer in enumerate(answers):
        groups.setdefault(normalize(answer), []).append(place)
    return list(groups.values())


def clusters(answers: Sequence[str]) -> list[list[int]] | None:
    """`group`, or None where no more than half of the answers are of a kind that clusters."""
    clusterable = sum(normalize(answer).clusterable for answer in answers)
    return group(answers) if 2 * clusterable > len(answers) else None


def _bare(text: str) -> str:
    """Without markup around it, the words that lead to it, and a final full stop."""
    text = re.sub(r"\s+", " ", text.translate(_FULL_WIDTH)).strip()
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf|mathbf)\{([^{}]*)\}", r"\1", text)
    text = text.replace("{,}", ",").replace("\\%", "%").replace("^\\circ", "°").replace("^{\\circ}", "°")
    text = re.sub(r"\\[,;!: ]|~", " ", text).strip()
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    for _ in range(3):
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for left, right in map(str.split, _DELIMITERS):
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner and right not in inner:
                text = inner.strip()
        if text == before:
            break
    text = text.replace("\\$", "$").replace("π", "\\pi ").strip()
    text = re.sub(r"√(\w|\d+|\([^()]*\))(?!\w)", r"\\sqrt{\1}", text)
    # "x = 5" says 5; "y = 2x" says how y depends on x.
    named = re.fullmatch(r"[a-zA-Z] ?= ?([^=]+)", text)
    if named and (read_quantity(named[1]) or not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", named[1]))):
        return named[1]
    return text


def _option(text: str) -> Answer | None:
    if not (match := _OPTION.fullmatch(text)):
        return None
    letter = next(one for one in match.groups() if one).upper()
    return Answer("option", letter, letter)


def _yes_no(text: str) -> Answer | None:
    if not (match := _YES_NO.fullmatch(text)):
        return None
    word = match.group(1).lower()
    return Answer("yes_no", word, word)


def _number(text: str) -> Answer | None:
    key = read_quantity(text)
    return None if key is None else Answer("number", key, key)


def _math(text: str) -> Answer | None:
    if _NOT_MATHS.fullmatch(text) or not mathematics.looks_mathematical(text):
        return None
    value, key = mathematics.canonical(text)
    if value is not None:
        return Answer("number", write_quantity(value), write_quantity(value))
    return Answer("math", key, text)


def _short(text: str) -> Answer | None:
    if len(text) > MAX_SHORT_LENGTH:
        return None
    folded = re.sub(r"(?<=[^\W\d_])[-‐](?=[^\W\d_])", " ", text.casefold())
    words = [stripped for word in folded.split() if (stripped := word.strip(_EDGES))]
    words = [word for word in words if word not in _ARTICLES] or words
    # Scripts without spaces: two characters count as a word.
    length = sum(max(1, len(_CJK.findall(word))) for word in words)
    if not words or length > MAX_SHORT_WORDS:
        return None
    key = " ".join(words)
    return Answer("short", key, key)


def _prose(text: str) -> Answer:
    key = " ".join(text.casefold().split())
    return Answer("prose", key, key)
