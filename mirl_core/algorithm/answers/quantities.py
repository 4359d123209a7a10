"""Numbers with units: a single spelling per value and unit, exact (fractions, never floats)."""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

_SPELLINGS = {
    "%": ("percent", "per cent"),
    "$": ("dollar", "usd"),
    "€": ("euro", "eur"),
    "£": ("gbp",),
    "°": ("degree", "deg"),
    "°c": ("° c", "degrees celsius", "degree celsius"),
    "°f": ("° f", "degrees fahrenheit", "degree fahrenheit"),
    "mm": ("millimeter", "millimetre"),
    "cm": ("centimeter", "centimetre"),
    "m": ("meter", "metre"),
    "km": ("kilometer", "kilometre"),
    "in": ("inch", "inche"),
    "ft": ("foot", "feet"),
    "g": ("gram",),
    "kg": ("kilogram", "kilo"),
    "ml": ("milliliter", "millilitre"),
    "l": ("liter", "litre"),
    "s": ("second", "sec"),
    "min": ("minute",),
    "h": ("hour", "hr"),
    "m²": ("m2", "m^2", "square meter", "square metre", "sq m"),
    "cm²": ("cm2", "cm^2", "square centimeter", "square centimetre"),
    "m³": ("m3", "m^3", "cubic meter", "cubic metre"),
}
_UNITS = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in (unit, *spellings)}

_NUMBER = re.compile(
    r"([-+−]?)\s?([$€£¥]?)\s?([-+−]?)(\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
    r"(?:(?:[eE]|\s?[x×]\s?10\^)\{?([-+−]?\d{1,4})\}?|/(\d{1,15}))?(?![\d.,])\s?(.*)"
)
_WORD_NUMBER = re.compile(rf"({'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})(?:\s+(.*))?", re.I)
_UNIT = re.compile(r"(?:[^\W\d_]|[°%€£¥$²])[\w°%€£¥$²³/^·.\- ]{0,31}")
# After a number these are variables, not units: 2x is mathematics.
_VARIABLES = frozenset("abcnxyz")


def read_quantity(text: str) -> str | None:
    """Return the key of a number with or without a unit; None for other text.

    `1,000.0 Centimeters` → `1000 cm`.
    """
    if match := _WORD_NUMBER.fullmatch(text):
        value = Fraction(NUMBER_WORDS.index(match[1].lower()))
        unit, currency = match[2] or "", ""
    elif match := _NUMBER.fullmatch(text):
        sign, currency, inner_sign, digits, power, denominator, unit = match.groups(default="")
        exponent = int(power.replace("−", "-") or 0)
        # A bound on the cost of 10^exponent; such a text is compared by its characters.
        if len(digits) > 100 or abs(exponent) > 100 or (denominator and int(denominator) == 0):
            return None
        value = Fraction(digits.replace(",", "")) / int(denominator or 1) * Fraction(10) ** exponent
        value = -value if (sign + inner_sign) in ("-", "−") else value
    else:
        return None
    if unit and (not _UNIT.fullmatch(unit) or len(unit.split()) > 3 or unit in _VARIABLES):
        return None
    return write_quantity(value, _canonical_unit(currency + unit))


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


def _canonical_unit(unit: str) -> str:
    """Return the unit's key: `Centimeters` → `cm`, `dogs` → `dog`. Short unknown units keep case: MW ≠ mW."""
    unit = unit.strip().rstrip(".")
    folded = unit.casefold()
    singular = folded[:-1] if folded.endswith("s") and not folded.endswith("ss") else folded
    # "M" may be mega and "m" milli, so a single letter must match the unit's case.
    if len(unit) > 1 or unit in _UNITS:
        for spelling in (folded, singular):
            if spelling in _UNITS:
                return _UNITS[spelling]
    return singular if len(unit) > 3 else unit
