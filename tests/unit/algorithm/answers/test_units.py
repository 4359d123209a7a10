"""The exact key of every kind of unit, and of the numbers before it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from mirl_core.algorithm.answers.quantities import Quantity, parse_quantity, read_quantity, split_key
from mirl_core.algorithm.answers.units import canonical_unit, known_unit

KNOWN = {
    "m/s": ["m/s", "m / s", "meters per second", "metre per second", "m s^{-1}", "m s^-1", "m·s^{-1}"],
    "m/s²": ["m/s^2", "m/s²", "meters per second squared", "m s^{-2}"],
    "km/h": ["km/h", "km/hr", "kph", "kmh", "kilometers per hour", "kilometers an hour", "KM/H"],
    "mi/h": ["mph", "mi/h", "miles per hour", "miles an hour"],
    "kg·m": ["kg·m", "kg m", "m·kg", "kg*m", "kg-m", "kg⋅m"],
    "N·m": ["N·m", "N m", "Nm", "newton meters"],
    "kg/m³": ["kg/m^3", "kg/m³", "kilograms per cubic meter"],
    "$/h": ["$/h", "dollars per hour", "$/hour"],
    "/day": ["per day", "/day"],
    "m²": ["m2", "m^2", "m^{2}", "m²", "sq m", "sq. m", "square meters", "meters squared"],
    "ft²": ["sq ft", "square feet", "ft^2", "sqft"],
    "cm³": ["cm3", "cm^3", "cubic centimeters", "cu cm", "cc", "centimeters cubed"],
    "unit²": ["square units", "sq units", "units^2"],
    "°c": ["°C", "° C", "degrees Celsius", "degree celsius", "deg C", "celsius", "C"],
    "°f": ["°F", "degrees Fahrenheit", "F"],
    "°": ["°", "degrees", "deg", "\\circ"],
    "%": ["%", "percent", "per cent", "pct", "percentage", "PERCENT"],
    "μm": ["μm", "um", "micrometers", "microns"],
    "kB": ["kB", "KB", "kb", "kilobytes"], "MB": ["MB", "mb", "megabytes"],
    "Mbit": ["Mbit", "Mb", "megabits"], "lb": ["lb", "lbs", "pounds", "pound"],
    "in": ["in", "inches", "in.", '"'], "ft": ["ft", "foot", "feet", "'"], "mW": ["mW", "milliwatts"],
    "MW": ["MW", "megawatts"], "kWh": ["kWh", "kilowatt hours", "KWH"], "l": ["l", "L", "liters"],
    "ml": ["ml", "mL", "ML"], "nm": ["nm", "nanometers"], "t": ["tonnes"], "ton": ["tons"],
    "$": ["$", "dollars", "USD", "US$"], "year": ["years", "yr", "yrs"],
}  # fmt: skip
UNKNOWN = [
    "", "Mg", "Mm", "mv", "NM", "PA", "dogs", "M", "k", "x", "mw", "m^4", "mol/l/s", "g2", "x m", "or",
    "m m m m", "sq kg", "s of", "m/dog",
]  # fmt: skip


def test_every_spelling_of_a_known_unit_has_its_key() -> None:
    read = {spelling: known_unit(spelling) for spellings in KNOWN.values() for spelling in spellings}
    assert read == {spelling: key for key, spellings in KNOWN.items() for spelling in spellings}
    assert {text: known_unit(text) for text in UNKNOWN} == dict.fromkeys(UNKNOWN)


COUNTED = {
    "dogs": "dog", "DOGS": "dog", "big red dogs": "big red dog", "very big red dogs": None, "boxes": "box",
    "cities": "city", "people": "person", "women": "woman", "glasses": "glass", "glass": "glass",
    "gas": "gas", "Cat": "Cat", "cats": "cat", "o'clock": "o'clock", "people per km^2": "person/km²",
    "goals/game": "goal/game", "dogs/": None, "/": None, "dogs per": None, "or 6": None, "or more": None,
    "of them": None, "left": "left", "to 6": None, "and a half": None, "times": None, "pm": None,
    "dog2": None, "dog!": None, "5": None, "a" * 32: "a" * 32, "a" * 33: None,
}  # fmt: skip


def test_what_is_counted_is_a_unit_too() -> None:
    assert {text: canonical_unit(text) for text in COUNTED} == COUNTED


NUMBERS = {
    "½": "0.5", "2½": "2.5", "-1½": "-1.5", "1 1/2": "1.5", "1 3/2": None, "1.5 1/2": None, "1 1/0": None,
    r"2\frac{1}{2}": "2.5", r"2 \frac{1}{2} cm": "2.5 cm", r"\frac12": "0.5", r"\dfrac{2}{6}": "1/3",
    r"\frac{1}{0}": None, r"-\frac{3}{4}": "-0.75", r"\frac1{72}": "1/72", "1 / 2": "0.5",
    "3/4 cup": "0.75 cup", "1 000": "1000", "1 000 000.5": "1000000.5", "1 00": None, "0 123": None,
    "1 000 4/9": "9004/9", "1'000": "1000", "0,125": "0.125", "0,12": None, "1,22": None, "0,123,456": None,
    "--5": None, "- -5": None, "+-5": None, "-$-5": None, "-$5": "-5$", "+5": "5",
    "$5M": "5000000$", "$5m": "5000000$", "$2bn": "2000000000$", "$5 k": "5000$", "$5 million": "5000000$",
    "5K": "5000", "5k": "5000", "5M": "5000000", "5B": "5000000000", "5 K": "5K", "5 M": "5M",
    "$12 USD": "12$", "$12 EUR": None, "USD 12": "12$", "US$12": "12$", "EUR5": "5€", "Rs. 500": "500₹",
    "USDx": None, "$5/hour": "5 $/h", "$5 per hour": "5 $/h", "$5 dogs": None, "$5/": None,
    "6.02×10²³": "602" + "0" * 21, "6.02*10^23": "602" + "0" * 21, r"3 \times 10^{8} m/s": "300000000 m/s",
    r"3\cdot10^{-2}": "0.03", "1e3 cm": "1000 cm", "3x4": None,
    "12cm": "12 cm", "12abc": None, "12dogs": None, "12 abc": "12 abc", "3D": "3D", "2/3 of a cup": "2/3 cup",
    "5 or 6": None, "5 of 6": None, "forty-two dogs": "42 dog", "minus 3 °C": "-3 °c", "5..": None,
}  # fmt: skip


def test_numbers_and_what_may_stand_behind_them() -> None:
    assert {text: read_quantity(text) for text in NUMBERS} == NUMBERS


@pytest.mark.parametrize(
    ("key", "quantity"),
    [
        ("5", Quantity(Fraction(5), "")), ("-0.5 cm", Quantity(Fraction(-1, 2), "cm")),
        ("1/3m", Quantity(Fraction(1, 3), "m")), ("12%", Quantity(Fraction(12), "%")),
        ("5 $/h", Quantity(Fraction(5), "$/h")), ("cm", None), ("", None),
    ],
)  # fmt: skip
def test_a_key_is_read_back(key: str, quantity: Quantity | None) -> None:
    assert split_key(key) == quantity


def test_a_folded_text_is_parsed_as_it_stands() -> None:
    assert parse_quantity("5 cm") == Quantity(Fraction(5), "cm")
    assert parse_quantity("five cm") is None
