"""Normalised answers: kind and canonical key. Two answers are the same iff kind and key are equal.

number     1,000 = one thousand; ½ = 1/2 = 0.5; 12 cm = 12cm ≠ 12 kg ≠ 12; 50% = 50 pct ≠ 50 (quantities.py)
option     (B) = B. = option B = B) cat = B is correct
yes_no     Yes. = yes, there is = Yes - a dog: the first word decides
short      the Red Car. = red car ≠ red car A; 5-10 = 5 to 10; 5 and 6 = 5, 6; room two = room 2
json       any key order
tool_call  parsed name and arguments
math       \\frac{\\pi}{2} = pi/2 (mathematics.py)
prose      everything else: does not cluster

The chain: characters in one spelling (spelling.py), no markup and no lead words (markup.py), numbers in words
as digits (number_words.py), then the first kind that reads the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from mirl_core.algorithm.answers import mathematics
from mirl_core.algorithm.answers.markup import strip_markup
from mirl_core.algorithm.answers.number_words import fold_number_words
from mirl_core.algorithm.answers.quantities import Quantity, parse_quantity, write_quantity
from mirl_core.algorithm.answers.spelling import fold
from mirl_core.algorithm.answers.structured import read_json

Kind = Literal["number", "option", "yes_no", "short", "json", "tool_call", "math", "prose"]

MAX_SHORT_WORDS = 5
MAX_SHORT_LENGTH = 64
MAX_LENGTH = 4 * MAX_SHORT_LENGTH
"""Characters; a longer text is prose."""

# A letter, and text behind it.
_OPTION = re.compile(
    r"(?:option|choice|answer):? \(?([a-z])\)?[.):]?(?: (.*))?"
    r"|[(\[{<]([a-j])[)\]}>][.:]?(?: (.*))?"
    r"|([a-j])[).:](?: (.*))?"
    r"|([a-j])"
    r"|(?-i:([A-J])) (- [^\W\d_]{2}.*|\([^\W\d_]{2}.*\))"
    r"|(?-i:([A-J])),? ((?:because|since|is (?:the )?(?:correct|right|best|answer)\b).*)",
    re.IGNORECASE,
)
_OTHER_OPTION = re.compile(
    r"(?:and|or|[,/&+]) ?[(\[]?[A-J][)\]]?(?![\w'])|(?:.*[\s,;])?(?:[(\[][B-J][)\]]|[B-J][).:])(?:\s.*)?"
)
_OPTIONS = re.compile(
    r"(?:both |options? |choices? )?([(\[]?[a-j][)\]]?[.)]?(?:(?:,? and |, | & )[(\[]?[a-j][)\]]?[.)]?)+)",
    re.I,
)

_FIRST_WORD = re.compile(r"(yes|yeah|yep|yup|no|nope|nah)(?!\w)(?:([\s,.;:!-]+)(.*))?", re.I)
# "No" before a noun is a determiner, as in "no parking"; before a clause it is an answer.
_CLAUSE_WORDS = frozenset({
    "there", "it", "that", "this", "these", "those", "the", "a", "an", "he", "she", "we", "you", "they", "i",
    "its", "i'm", "i've", "i'd", "it's", "that's", "there's", "they're", "he's", "she's", "not", "because",
    "since", "as", "but", "in", "on", "at", "from", "according", "based", "unfortunately", "actually",
    "sorry", "none", "nothing", "neither",
})  # fmt: skip
_VERBS = frozenset({
    "is", "are", "was", "were", "has", "have", "had", "does", "do", "did", "can", "could", "will", "would",
    "should", "be", "been", "isn't", "aren't", "wasn't", "doesn't", "don't", "can't", "cannot", "appear",
    "appears", "seem", "seems", "visible", "present", "shown", "seen", "exist", "exists", "contain",
    "contains", "depicted", "here", "image", "picture", "photo", "photograph",
})  # fmt: skip

_SEPARATES = re.compile(r"[,;!]| -")

_RANGE = re.compile(r"(from |between )?(.+?)(?: ?- ?| to |( and ))([^-].*)")
_LEADING_ZERO = re.compile(r"(?<![\d.])0\d")
_TIMES = re.compile(r" ?[x×] ?(?=\d)| by (?=\d)")
_AND = re.compile(r",? and |, | ?[&;] ?|,(?!\d{3}(?!\d))")
# "5 ft 3 in": a blank, or none behind a sign, parts a value with its unit from the next.
_NEXT_VALUE = re.compile(r"(?<=[^\d\s,.])\s(?=\d)|(?<=['\"°])(?=\d)|,? and |, ")
# Dates and scores look like subtractions and divisions.
_NOT_MATHS = re.compile(r"[\d\s.,:/-]+|[nN]/[aA]")

_NAMED_BY_LETTER = frozenset({
    "vitamin", "grade", "group", "type", "plan", "team", "hepatitis", "class", "section", "point", "letter",
    "row", "column", "label", "part", "line", "figure", "player", "option", "choice", "answer", "model",
    "product", "company", "gate", "terminal", "zone", "level", "exhibit", "appendix", "box",
})  # fmt: skip
_AFTER_LETTER = frozenset({
    "and", "or", "&", "only", "alone", "is", "was", "are", "because", "but", "not", "to", "for", "from", "of",
    "with", "in", "on", "at", "by", "the",
})  # fmt: skip
_EDGES = ".,;:!?…。，！？、\"'“”‘’«»„()[]{}<>*`_~"
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,2}")
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-‐](?=[^\W\d_])")
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_HALF_OF_DAY = re.compile(r"(\d)([ap]\.?m\b\.?)", re.I)
_INDEX = re.compile(r"(?<=[^\W_])_\{?(\d+)\}?")


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


@dataclass(frozen=True, slots=True)
class _Expression:
    """Mathematics that is not evaluated yet."""

    latex: str
    unit: str
    text: str


def normalize(answer: str) -> NormalizedAnswer:
    """Return an answer's kind and key. Never raises; linear in its length, apart from bounded mathematics."""
    read = _read_short(answer) if len(answer) <= MAX_SHORT_LENGTH else _read(answer)
    return read if isinstance(read, NormalizedAnswer) else _evaluate(read)


@lru_cache(maxsize=4096)
def _read_short(answer: str) -> NormalizedAnswer | _Expression:
    """Return `_read`, cached because a vote is counted again after every chain, over few different answers.

    A pure function of its argument. The value of mathematics isn't, because it depends on the installed
    packages; it has a cache of its own.
    """
    return _read(answer)


def _read(answer: str) -> NormalizedAnswer | _Expression:
    text = answer.strip()
    if structured := read_json(text):
        return NormalizedAnswer(*structured, structured[1])
    if len(text) > MAX_LENGTH:
        return _prose(text)
    bare = strip_markup(text)
    if normalized := _option(bare) or _yes_no(bare):
        return normalized
    digits = fold_number_words(bare)
    return _number(digits) or _series(digits) or _math(digits) or _short(digits) or _prose(text)


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
    """Read an option; several ("C and A") are a text of their letters, in the order of the alphabet."""
    if several := _OPTIONS.fullmatch(text):
        key = ", ".join(sorted(re.findall(r"(?<!\w)[a-j](?!\w)", several[1].casefold())))
        return NormalizedAnswer("short", key, key)
    if not (match := _OPTION.fullmatch(text)):
        return None
    letter, *rest = (item for item in match.groups() if item)
    if rest and _OTHER_OPTION.fullmatch(rest[0]):
        return None
    return NormalizedAnswer("option", letter.upper(), letter.upper())


def _yes_no(text: str) -> NormalizedAnswer | None:
    if not (match := _FIRST_WORD.fullmatch(text)):
        return None
    word = "yes" if match[1][0] in "yY" else "no"
    if match[3] and not _ends_with_the_word(word, match[2], match[3]):
        return None
    return NormalizedAnswer("yes_no", word, word)


def _ends_with_the_word(word: str, gap: str, rest: str) -> bool:
    """Return whether "yes" or "no" is the answer, and `rest`, after the characters `gap`, a comment on it."""
    words = [item.strip(_EDGES) for item in rest.casefold().split()]
    if not any(map(str.isalpha, rest)) or (rest[0].isdigit() and not _SEPARATES.search(gap)):
        return False
    if words[0] in ("and", "or") and words[-1] in ("yes", "no"):
        return False
    if word == "yes" or gap.strip(" -") or gap.startswith(" -"):
        return True
    return words[0] != "one" and (words[0] in _CLAUSE_WORDS or not _VERBS.isdisjoint(words))


def _number(text: str) -> NormalizedAnswer | None:
    bare = text[1:-1] if text[:1] + text[-1:] in ("()", "{}") else text
    quantity = parse_quantity(bare)
    if quantity is None:
        return None
    key = write_quantity(quantity.value, quantity.unit)
    return NormalizedAnswer("number", key, key)


def _series(text: str) -> NormalizedAnswer | None:
    """Read a range, dimensions such as `3 x 4`, a list, or a value in several units: `5 ft 3 in`."""
    if not any(map(str.isdigit, text)) or _LEADING_ZERO.search(text):
        return None
    if (match := _RANGE.fullmatch(text)) and bool(match[3]) <= (match[1] == "between "):
        ends = _values([match[2], match[4]])
        if ends:
            return _joined("-", ends)
    if len(parts := _TIMES.split(text)) > 1 and (sides := _values(parts)):
        return _joined("x", sides)
    return _list(text, _NEXT_VALUE, with_units=True) or _list(text, _AND, with_units=False)


def _list(text: str, separator: re.Pattern[str], with_units: bool) -> NormalizedAnswer | None:
    parts = separator.split(text)
    values = [value for part in parts if (value := parse_quantity(part))]
    if (
        len(parts) == 1
        or len(values) < len(parts)
        or (with_units and not all(value.unit for value in values))
    ):
        return None
    key = ", ".join(write_quantity(value.value, value.unit) for value in values)
    return NormalizedAnswer("short", key, key)


def _values(parts: Sequence[str]) -> list[Quantity] | None:
    """Return values of a single unit, each with that unit; None where a part is none, or has another unit."""
    values = [parse_quantity(part) for part in parts]
    units = {value.unit for value in values if value and value.unit} or {""}
    if None in values or len(units) > 1:
        return None
    (unit,) = units
    return [Quantity(value.value, unit) for value in values if value]


def _joined(separator: str, values: Sequence[Quantity]) -> NormalizedAnswer:
    *others, last = values
    key = separator.join(
        [*(write_quantity(value.value) for value in others), write_quantity(last.value, last.unit)]
    )
    return NormalizedAnswer("short", key, key)


def _math(text: str) -> _Expression | None:
    latex = mathematics.to_latex(text)
    if _NOT_MATHS.fullmatch(text) or not mathematics.looks_mathematical(latex):
        return None
    return _Expression(*mathematics.split_unit(latex), text)


def _evaluate(expression: _Expression) -> NormalizedAnswer:
    value, key = mathematics.canonical(expression.latex)
    if value is not None:
        key = write_quantity(value, expression.unit)
        return NormalizedAnswer("number", key, key)
    return NormalizedAnswer("math", f"{key} {expression.unit}".rstrip(), expression.text)


def _short(text: str) -> NormalizedAnswer | None:
    if len(text) > MAX_SHORT_LENGTH:
        return None
    spaced = _HALF_OF_DAY.sub(r"\1 \2", _HYPHEN.sub(" ", text))
    words = [stripped for word in spaced.split() if (stripped := word.strip(_EDGES))]
    kept = [word for index, word in enumerate(words) if not _is_filler(words, index)] or words
    # Scripts without spaces: two characters count as a word.
    length = sum(max(1, len(_CJK.findall(word))) for word in kept)
    if not kept or length > MAX_SHORT_WORDS:
        return None
    key = " ".join(map(_plain_word, kept))
    return NormalizedAnswer("short", key, key)


def _is_filler(words: Sequence[str], index: int) -> bool:
    """Return whether a word is an article or a lone dash. "A" is a letter at the end, in a list, and behind a
    noun."""
    word = words[index].casefold()
    if word != "a":
        return word in ("an", "the", "-")
    following = words[index + 1].casefold() if index + 1 < len(words) else ""
    if not following or following in _AFTER_LETTER or (len(following) == 1 and following.isalpha()):
        return False
    return index == 0 or (words[index] == "a" and words[index - 1].casefold() not in _NAMED_BY_LETTER)


def _plain_word(word: str) -> str:
    """Return the word in small letters: `U.S.` is `us`, `&` is `and`, `H_2O` is `h2o`."""
    word = word.casefold()
    if _ABBREVIATION.fullmatch(word):
        word = word.replace(".", "")
    return "and" if word == "&" else _INDEX.sub(r"\1", word)


def _prose(text: str) -> NormalizedAnswer:
    key = " ".join(fold(text).casefold().split())
    return NormalizedAnswer("prose", key, key)
