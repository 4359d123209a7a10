"""Units of values: one spelling per unit, so that `5 meters per second` is `5 m/s` and neither is `5 m`.

Units are compared, never converted: `100 cm` and `1 m` stay apart, as do `50%` and `0.5`. A unit is a known
unit, a product or quotient of known units, or up to three words that name what is counted (`3 red dogs`);
letters have the case that the unit needs (`mW`, `MW`). Words that say something else about a number ("5 or
more", "5 of 6") are none.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["CURRENCIES", "canonical_unit", "known_unit"]

# The key of a unit: its other spellings. Names also have a plural in s.
_SPELLINGS = {
    "%": ("percent", "per cent", "pct", "percentage"),
    "‰": ("permille", "per mille"),
    "$": ("dollar", "usd", "us$", "us dollar"),
    "€": ("euro", "eur"),
    "£": ("gbp", "pound sterling", "british pound"),
    "¥": ("yen", "jpy"),
    "₹": ("rupee", "inr", "rs"),
    "yuan": ("cny", "rmb", "元"),
    "¢": ("cent",),
    "°": ("degree", "deg", "\\circ", "\\degree"),
    "°c": ("° c", "degree celsius", "degree centigrade", "degree c", "celsius", "C"),
    "°f": ("° f", "degree fahrenheit", "degree f", "fahrenheit", "F"),
    "N·m": ("Nm", "newton meter", "newton metre"),
    "rad": ("radian",),
    "in": ("inch", "inche", '"', "″"),
    "ft": ("foot", "feet", "'", "′"),
    "yd": ("yard",),
    "mi": ("mile",),
    "mi/h": ("mph",),
    "km/h": ("kph", "kmh", "kmph"),
    "oz": ("ounce",),
    "lb": ("pound", "lbs"),
    "t": ("tonne", "metric ton"),
    "ton": (),
    "gal": ("gallon",),
    "qt": ("quart",),
    "pt": ("pint",),
    "ha": ("hectare",),
    "ac": ("acre",),
    "min": ("minute", "mins"),
    "h": ("hour", "hr"),
    "day": (),
    "week": ("wk",),
    "month": (),
    "year": ("yr",),
    "bar": (),
    "atm": ("atmosphere",),
    "dB": ("decibel",),
    "rpm": (),
    "px": ("pixel",),
    "mmHg": ("mm Hg",),
}
# Base units with the prefixes that they take in everyday answers: key, names, prefixes.
_BASES = (
    ("m", ("meter", "metre"), "n μ m c d k"), ("g", ("gram", "gramme"), "μ m k"),
    ("l", ("liter", "litre"), "μ m c d"), ("s", ("second", "sec"), "n μ m"), ("Hz", ("hertz",), "k M G"),
    ("N", ("newton",), "k M"), ("J", ("joule",), "k M"), ("W", ("watt",), "m k M G"), ("V", ("volt",), "m k"),
    ("A", ("ampere", "amp"), "m μ"), ("Ω", ("ohm",), "k M"), ("farad", (), ""), ("coulomb", (), ""),
    ("Pa", ("pascal",), "h k M"), ("mol", ("mole",), "m"), ("K", ("kelvin",), ""), ("T", ("tesla",), "m"),
    ("eV", ("electronvolt", "electron volt"), "k M G"), ("cal", ("calorie",), "k"),
    ("B", ("byte",), "k M G T"), ("bit", ("bit",), "k M G"), ("Wh", ("watt hour",), "k M G"),
    ("unit", (), ""),
)  # fmt: skip
_PREFIXES = {
    "p": "pico", "n": "nano", "μ": "micro", "m": "milli", "c": "centi", "d": "deci", "h": "hecto",
    "k": "kilo", "M": "mega", "G": "giga", "T": "tera",
}  # fmt: skip
_LENGTHS = frozenset({"m", "mm", "cm", "dm", "km", "in", "ft", "yd", "mi", "unit"})
# Byte and bit differ by their case alone where it is mixed.
_SHORT_NAMES = {
    "kilo": "kg", "micron": "μm", "L": "l", "mL": "ml", "sqft": "ft²", "cc": "cm³", "μF": "μfarad",
    "μC": "μcoulomb", "hz": "Hz", "khz": "kHz", "KHz": "kHz", "mhz": "MHz", "ghz": "GHz", "kw": "kW",
    "KW": "kW", "kwh": "kWh", "KWH": "kWh", "KWh": "kWh", "db": "dB",
    "KB": "kB", "kb": "kB", "mb": "MB", "gb": "GB", "tb": "TB", "Kb": "kbit", "Mb": "Mbit", "Gb": "Gbit",
}  # fmt: skip
CURRENCIES = frozenset({"$", "€", "£", "¥", "₹"})

_POWERS = {"2": "²", "3": "³", "-1": "⁻¹", "-2": "⁻²", "-3": "⁻³"}
_FACTOR = re.compile(r"(.+?)\s?(?:\^?\{?(-?[23]|-1)\}?|([²³]))")
_WORD = re.compile(r"[^\W\d_](?:[^\W\d]|['-])*")
_DEGREES = re.compile(r"deg(?:ree)?s? (?=[cf])")
_AN_HOUR = re.compile(r" an? (second|minute|hour|day|week|month|year)$", re.I)
_PRODUCT = re.compile(r"\s?[·⋅*]\s?|(?<=\w)-(?=\w)| ")
# After a number these say something else about it, or are words of mathematics.
_NO_UNIT = frozenset({
    "or", "per", "and", "to", "of", "plus", "minus", "times", "x", "by", "is", "are", "was", "were", "not",
    "but", "if", "then", "so", "for", "from", "than", "at", "on", "with", "more", "less", "only", "i", "it",
    "the", "a", "an", "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "be", "each", "into", "vs", "versus",
    "about", "nor", "as", "am", "pm",
})  # fmt: skip
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse",
    "geese": "goose", "teeth": "tooth",
}  # fmt: skip
MAX_WORDS = 3
MAX_LENGTH = 32


def _table() -> dict[str, str]:
    """Return the key of every spelling, names in small letters."""
    table = dict(_SHORT_NAMES)
    for key, spellings in _SPELLINGS.items():
        table |= dict.fromkeys((key, *spellings), key)
    for base, names, prefixes in _BASES:
        for prefix in ("", *prefixes.split()):
            key = prefix + base
            table |= dict.fromkeys((key, *(_PREFIXES.get(prefix, "") + name for name in names)), key)
    return table | {spelling.replace("μ", "u"): key for spelling, key in table.items() if spelling[0] == "μ"}


_UNITS = _table()
# Spellings of two units that differ by case alone: their case decides.
_CASED = {
    spelling.casefold()
    for spelling, key in _UNITS.items()
    if _UNITS.get(spelling.casefold(), key) != key
}  # fmt: skip


@lru_cache(maxsize=1024)
def known_unit(unit: str) -> str | None:
    """Return the key of a known unit, or of a product or quotient of known units; None for other text."""
    unit = _AN_HOUR.sub(r" per \1", unit.strip().rstrip("."))
    if key := _simple(unit):
        return key
    quotient = re.split(r"\s?/\s?|(?:^|\s)per\s", unit)
    if len(quotient) > 2:
        return None
    parts = [_product(part) for part in quotient if part]
    if not parts or None in parts:
        return None
    if len(quotient) == 1:
        return parts[0]
    return f"{parts[0] if len(parts) == 2 else ''}/{parts[-1]}"


def canonical_unit(unit: str) -> str | None:
    """Return the key of a unit: known, or words for what is counted; None for text that is no unit.

    `Centimeters` → `cm`, `m s^{-1}` → `m/s`, `Big dogs` → `big dog`. Unknown units of up to three letters
    keep their case.
    """
    if not unit or len(unit) > MAX_LENGTH:
        return None
    if key := known_unit(unit):
        return key
    unit = unit.strip().rstrip(".")
    head, per, denominator = unit.partition("/") if "/" in unit else unit.partition(" per ")
    phrase = _phrase(head.strip())
    if not per or phrase is None:
        return None if per else phrase
    divisor = known_unit(denominator) or _phrase(denominator.strip())
    return divisor and f"{phrase}/{divisor}"


def _phrase(text: str) -> str | None:
    words = text.split()
    if not words or len(words) > MAX_WORDS or not all(map(_WORD.fullmatch, words)):
        return None
    if not _NO_UNIT.isdisjoint(word.casefold() for word in words):
        return None
    if len(text) > 3:
        words = [word.casefold() for word in words]
    return " ".join([*words[:-1], _singular(words[-1]) if len(text) > 3 else words[-1]])


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _simple(unit: str) -> str | None:
    """Return the key of a unit without product, quotient and power."""
    if unit in _UNITS:
        return _UNITS[unit]
    # A letter's case is its meaning, alone and as a prefix: m is metre and milli, M is mega.
    if len(unit) == 1 or (len(unit) == 2 and unit[0] == "M" and unit[1].islower()):
        return None
    folded = _DEGREES.sub("degree ", unit.casefold())
    singular = folded[:-1] if folded.endswith("s") and not folded.endswith("ss") else folded
    return None if folded in _CASED else _UNITS.get(folded) or _UNITS.get(singular)


def _product(text: str) -> str | None:
    """Return the key of a product of known units with powers: `kg·m²`, `square meters`, `second squared`."""
    text = text.strip()
    if key := _simple(text) or _power(text):
        return key
    factors = [_simple(factor) or _power(factor) for factor in _PRODUCT.split(text)]
    if len(factors) > 3 or None in factors:
        return None
    known = [factor for factor in factors if factor]
    above = "·".join(sorted(factor for factor in known if "⁻" not in factor))
    below = "·".join(sorted(re.sub("⁻¹?", "", factor) for factor in known if "⁻" in factor))
    return f"{above}/{below}" if below else above


def _power(text: str) -> str | None:
    for word, power in (("square", "²"), ("sq", "²"), ("cubic", "³"), ("cu", "³")):
        if match := re.fullmatch(rf"{word}\.? (.+)", text, re.I):
            base = _simple(match[1])
            return base + power if base in _LENGTHS else None
    for word, power in (("squared", "²"), ("cubed", "³")):
        if text.casefold().endswith(f" {word}"):
            base = _simple(text[: -len(word) - 1])
            return base and base + power
    if not (match := _FACTOR.fullmatch(text)):
        return None
    base = _simple(match[1])
    # "m2" is an area; after other units a bare digit is none of theirs.
    if base is None or ("^" not in text and not match[3] and base not in _LENGTHS):
        return None
    return base + (match[3] or _POWERS[match[2]])
