"""An answer's text → its kind and canonical key. Two answers are the same iff kind and key are equal.

number     1,000 = 1000 = 1000.0; twelve = 12; 1/2 = 0.5; 12 cm = 12cm ≠ 12 m ≠ 12; 50% = 50 percent ≠ 50
option     (B) = B. = option B = B) cat
yes_no     Yes. = yes, there is
short      the Red Car. = red car
json       any key order
tool_call  parsed name and arguments
math       \\frac{\\pi}{2} = \\pi/2 (see mathematics.py)
prose      everything else: does not cluster
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from mirl_core.answers import mathematics
from mirl_core.answers.units import NUMBER_WORDS, canonical_unit

Kind = Literal["number", "option", "yes_no", "short", "json", "tool_call", "math", "prose"]

MAX_SHORT_WORDS = 5
MAX_SHORT_LENGTH = 64
MAX_JSON_LENGTH = 100_000

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
_NUMBER = re.compile(
    r"([-+−]?)\s?([$€£¥]?)\s?([-+−]?)(\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
    r"(?:(?:[eE]|\s?[x×]\s?10\^)\{?([-+−]?\d{1,4})\}?|/(\d{1,15}))?(?![\d.,])\s?(.*)"
)
_WORD_NUMBER = re.compile(rf"({'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})(?:\s+(.*))?", re.I)
_UNIT = re.compile(r"(?:[^\W\d_]|[°%€£¥$²])[\w°%€£¥$²³/^·.\- ]{0,31}")
# After a number these are variables, not units: 2x is mathematics.
_VARIABLES = frozenset("abcnxyz")
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
    text = answer.strip()
    if found := _json(text):
        return found
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
    if named and (_number(named[1]) or not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", named[1]))):
        return named[1]
    return text


def _json(text: str) -> Answer | None:
    if len(text) > MAX_JSON_LENGTH or not text.startswith(("{", "[", "`", "<")):
        return None
    fenced = re.fullmatch(r"```(?:json)?\s(.*)```", text, re.DOTALL)
    body = fenced.group(1).strip() if fenced else text
    try:
        if body.startswith("<tool_call>"):
            calls = [call.strip().removesuffix("</tool_call>") for call in body.split("<tool_call>")[1:]]
            return _dump("tool_call", [_canonical(json.loads(call)) for call in calls])
        if not body.startswith(("{", "[")):
            return None
        value = _canonical(json.loads(body, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and "name" in value and "arguments" in value:
        return _dump("tool_call", [value])
    return _dump("json", value)


def _dump(kind: Kind, value: object) -> Answer:
    key = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return Answer(kind, key, key)


def _canonical(value: Any) -> Any:
    """Numbers that are equal become the same; a tool call's arguments may be JSON in a string."""
    if isinstance(value, dict):
        arguments = value.get("arguments")
        if "name" in value and isinstance(arguments, str):
            value = value | {"arguments": json.loads(arguments)}
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


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
    if match := _WORD_NUMBER.fullmatch(text):
        value = Fraction(NUMBER_WORDS.index(match.group(1).lower()))
        unit, currency = match.group(2) or "", ""
    elif match := _NUMBER.fullmatch(text):
        sign, currency, inner_sign, digits, power, denominator, unit = match.groups(default="")
        if len(digits) > 100 or (denominator and int(denominator) == 0):
            return None
        if power and abs(int(power.replace("−", "-"))) > 100:
            return None
        value = Fraction(digits.replace(",", "")) / (int(denominator) if denominator else 1)
        value *= Fraction(10) ** int(power.replace("−", "-") or 0)
        value = -value if (sign + inner_sign) in ("-", "−") else value
    else:
        return None
    if unit and (not _UNIT.fullmatch(unit) or len(unit.split()) > 3 or unit in _VARIABLES):
        return None
    return _quantity(value, canonical_unit(currency + unit))


def _quantity(value: Fraction, unit: str = "") -> Answer:
    key = _decimal(value) + (f" {unit}" if len(unit) > 1 else unit)
    return Answer("number", key, key)


def _decimal(value: Fraction) -> str:
    """`0.5` where the decimals end, `1/3` where they don't."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places == 0:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _math(text: str) -> Answer | None:
    if _NOT_MATHS.fullmatch(text) or not mathematics.looks_mathematical(text):
        return None
    value, key = mathematics.canonical(text)
    return _quantity(value) if value is not None else Answer("math", key, text)


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
