"""Values with units: one spelling per value and unit, exact (fractions, never floats).

A unit is part of the value: 5 cm, 5 kg and 5 are three answers. Since equality groups votes it must be
transitive, and if 5 equalled 5 cm and 5 kg, these would be equal too. The graders agree where they don't
ignore units: ChartQA's and MathVista's rules read neither `5 cm` nor `5 kg` as the number 5, and lmms-eval's
judge demands value and unit. Math-Verify drops units; so do HELM and OpenAI's simple-evals, for truths that
are known to be without one. A rule that accepts an answer's unit where the truth has none belongs to the data
set (`tasks.data.rules`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mirl_core.algorithm.answers.number_words import fold_number_words
from mirl_core.algorithm.answers.spelling import fold
from mirl_core.algorithm.answers.units import CURRENCIES, canonical_unit, known_unit

__all__ = ["MAX_EXPONENT", "Quantity", "parse_quantity", "read_quantity", "split_key", "write_quantity"]

MAX_DIGITS = 100
MAX_EXPONENT = 300
"""A bound on the cost of a power of ten; a number beyond it is compared by its characters."""

_CURRENCY = r"US\$|[$€£¥₹]|(?:USD|EUR|GBP|JPY|INR|Rs\.?)(?=\s?[\d.])"
_FRACTION = r"\\[dtc]?frac\s?(?:\{\s?(\d{1,15})\s?\}|(\d))\s?(?:\{\s?(\d{1,15})\s?\}|(\d))"
_NUMBER = re.compile(
    rf"([-+]?)\s?({_CURRENCY})?\s?([-+]?)(?:{_FRACTION}|"
    r"([1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?![\d/])|[1-9]\d{0,2}(?:'\d{3})+"
    r"|0,\d{3,}|\d+\.?\d*|\.\d+)"
    rf"(?:(?:[eE]|\s?(?:[x×·⋅*]|\\times|\\cdot)\s?10\s?\^)\{{?([-+]?\d{{1,4}})\}}?|\s?/\s?(\d{{1,15}})"
    rf"|(?:\s(?=\d)|\s?(?=\\))(?:(\d{{1,15}})\s?/\s?(\d{{1,15}})|{_FRACTION}))?)"
    r"(?![\d.,])(\s?)(.*)"
)
# Right behind a number these are factors, and behind an amount of money the small letters too: $5m is 5
# million dollars.
_LETTER_FACTORS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_FACTORS = _LETTER_FACTORS | {
    "m": 10**6, "mn": 10**6, "mln": 10**6, "b": 10**9, "bn": 10**9, "t": 10**12, "T": 10**12, "tn": 10**12,
}  # fmt: skip
# After a number these are variables, not units: 2x is mathematics.
_VARIABLES = frozenset("abcnxyz")
_OF = re.compile(r"of an? ")
_KEY = re.compile(r"(-?\d+(?:\.\d+|/\d+)?) ?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value and its unit's key; an empty unit for a bare number."""

    value: Fraction
    unit: str


def read_quantity(text: str) -> str | None:
    """Return the key of a number with or without a unit; None for other text.

    `1,000.0 Centimeters` → `1000 cm`, `twenty-one dogs` → `21 dog`.
    """
    quantity = parse_quantity(fold_number_words(fold(text)))
    return None if quantity is None else write_quantity(quantity.value, quantity.unit)


def parse_quantity(text: str) -> Quantity | None:
    """Return the value and unit of a text that is a number with or without a unit, and nothing else.

    Args:
        text: folded, with numbers in words as digits.
    """
    if not (match := _NUMBER.fullmatch(text)):
        return None
    sign, currency, inner_sign, *_, gap, rest = match.groups(default="")
    value = None if sign and inner_sign else _value(match)
    if value is None:
        return None
    value = -value if "-" in (sign, inner_sign) else value
    if currency:
        factor = _FACTORS.get(rest, 1)
        return _with_currency(value * factor, currency, "" if factor > 1 else rest)
    if not rest:
        return Quantity(value, "")
    if not gap and rest in _LETTER_FACTORS:
        return Quantity(value * _LETTER_FACTORS[rest], "")
    rest = _OF.sub("", rest)
    if rest in _VARIABLES or (gap == "" and len(rest) > 1 and known_unit(rest) is None):
        return None
    unit = canonical_unit(rest)
    return None if unit is None else Quantity(value, unit)


def _with_currency(value: Fraction, currency: str, rest: str) -> Quantity | None:
    money = known_unit(currency.removesuffix("."))
    assert money in CURRENCIES
    if rest and known_unit(rest) == money:
        rest = ""
    unit = canonical_unit(rest.removeprefix("/").removeprefix("per ")) if rest else ""
    if unit is None or (unit and not rest.startswith(("/", "per "))):
        return None
    return Quantity(value, f"{money}/{unit}" if unit else money)


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the number that `_NUMBER` matched, without its sign."""
    (a, b, c, d, digits, power, denominator, numerator, part, e, f, g, h) = match.groups(default="")[3:-2]
    if not digits:
        return _ratio(a or b, c or d)
    if len(digits) > MAX_DIGITS or abs(int(power or 0)) > MAX_EXPONENT:
        return None
    # "0,125" has a decimal comma, since no group of thousands begins with 0.
    whole = Fraction(digits.replace("0,", "0.", 1) if digits[0] == "0" else re.sub("[, ']", "", digits))
    if denominator:
        below = _ratio("1", denominator)
        return below and whole * below
    numerator, part = numerator or e or f, part or g or h
    if not part:
        return whole * Fraction(10) ** int(power or 0)
    # Only a whole number and a proper fraction make a mixed number.
    fraction = _ratio(numerator, part)
    return None if fraction is None or fraction >= 1 or "." in digits else whole + fraction


def _ratio(numerator: str, denominator: str) -> Fraction | None:
    return Fraction(int(numerator), int(denominator)) if int(denominator) else None


def write_quantity(value: Fraction, unit: str = "") -> str:
    """Write a value: `0.5` where the decimals end, `1/3` where they don't, `12 cm` with a unit."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    number = str(value)
    if rest == 1 and places:
        digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
        number = f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return number + (f" {unit}" if len(unit) > 1 else unit)


def split_key(key: str) -> Quantity | None:
    """Return the value and unit of a key that `write_quantity` wrote; None for other text."""
    match = _KEY.fullmatch(key)
    return match and Quantity(Fraction(match[1]), match[2])
