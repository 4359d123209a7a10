"""Words for small numbers, and one spelling per unit."""

from __future__ import annotations

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


def canonical_unit(unit: str) -> str:
    """One spelling per unit: `Centimeters` → `cm`, `dogs` → `dog`. Short unknown ones keep case: MW ≠ mW."""
    unit = unit.strip().rstrip(".")
    folded = unit.casefold()
    singular = folded[:-1] if folded.endswith("s") and not folded.endswith("ss") else folded
    # "M" may be mega and "m" milli, so a lone letter must be written as the unit is.
    if len(unit) > 1 or unit in _UNITS:
        for spelling in (folded, singular):
            if spelling in _UNITS:
                return _UNITS[spelling]
    return singular if len(unit) > 3 else unit
