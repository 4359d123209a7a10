"""Normalised answers: kind and canonical key. Two answers are the same iff kind and key are equal.

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
from mirl_core.algorithm.answers.markup import strip_markup
from mirl_core.algorithm.answers.quantities import read_quantity, write_quantity
from mirl_core.algorithm.answers.structured import read_json

Kind = Literal["number", "option", "yes_no", "short", "json", "tool_call", "math", "prose"]

MAX_SHORT_WORDS = 5
MAX_SHORT_LENGTH = 64

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


@dataclass(frozen=True, slots=True)
class NormalizedAnswer:
    """A normalised answer. Equal and hashable by kind and key."""

    kind: Kind
    key: str
    text: str = field(default="", compare=False)
    """The key in a form for people; the same but for mathematics."""

    @property
    def clusterable(self) -> bool:
        """Whether equal answers of this kind count as one answer in a vote."""
        return self.kind != "prose"


def normalize(answer: str) -> NormalizedAnswer:
    """Return an answer's kind and key. Never raises; linear in its length, apart from bounded mathematics."""
    cached = _normalize_short(answer) if len(answer) <= MAX_SHORT_LENGTH else None
    return _normalize(answer) if cached is None else cached


@lru_cache(maxsize=4096)
def _normalize_short(answer: str) -> NormalizedAnswer | None:
    """Return the normalised answer; None for mathematics, which has its own cache.

    Cached because a vote is counted again after every chain, over few different answers. A pure function of
    its argument; mathematics isn't, because it depends on the installed packages.
    """
    return None if mathematics.looks_mathematical(answer) else _normalize(answer)


def _normalize(answer: str) -> NormalizedAnswer:
    text = answer.strip()
    if structured := read_json(text):
        return NormalizedAnswer(*structured, structured[1])
    if len(text) > 4 * MAX_SHORT_LENGTH:
        return _prose(text)
    bare = strip_markup(text)
    for rule in (_option, _yes_no, _number, _math, _short):
        if normalized := rule(bare):
            return normalized
    return _prose(text)


def equivalent(a: NormalizedAnswer, b: NormalizedAnswer) -> bool:
    """Return whether two answers are the same."""
    return a == b


def group(answers: Sequence[str]) -> list[list[int]]:
    """Return the indices of equal answers together, in order of first appearance.

    Prose is equal only word for word.
    """
    groups: dict[NormalizedAnswer, list[int]] = {}
    for index, answer in enumerate(answers):
        groups.setdefault(normalize(answer), []).append(index)
    return list(groups.values())


def clusters(answers: Sequence[str]) -> list[list[int]] | None:
    """Return `group(answers)`, or None where at most half of the answers are of a kind that clusters."""
    clusterable = sum(normalize(answer).clusterable for answer in answers)
    return group(answers) if 2 * clusterable > len(answers) else None


def _option(text: str) -> NormalizedAnswer | None:
    if not (match := _OPTION.fullmatch(text)):
        return None
    letter = next(letter for letter in match.groups() if letter).upper()
    return NormalizedAnswer("option", letter, letter)


def _yes_no(text: str) -> NormalizedAnswer | None:
    if not (match := _YES_NO.fullmatch(text)):
        return None
    word = match.group(1).lower()
    return NormalizedAnswer("yes_no", word, word)


def _number(text: str) -> NormalizedAnswer | None:
    key = read_quantity(text)
    return None if key is None else NormalizedAnswer("number", key, key)


def _math(text: str) -> NormalizedAnswer | None:
    if _NOT_MATHS.fullmatch(text) or not mathematics.looks_mathematical(text):
        return None
    value, key = mathematics.canonical(text)
    if value is not None:
        return NormalizedAnswer("number", write_quantity(value), write_quantity(value))
    return NormalizedAnswer("math", key, text)


def _short(text: str) -> NormalizedAnswer | None:
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
    return NormalizedAnswer("short", key, key)


def _prose(text: str) -> NormalizedAnswer:
    key = " ".join(text.casefold().split())
    return NormalizedAnswer("prose", key, key)
