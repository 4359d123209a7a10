"""The key of a mathematical expression: math-verify parses the LaTeX, values at fixed points make the key.

`math_verify.verify` compares two expressions by simplification. That is neither bounded in time (from seconds
without end on a hundred characters, and its time limit needs signals, which only the main thread has) nor
transitive. So an expression is evaluated instead: a constant once, an expression with variables at two fixed
points (two different polynomials agree at a random point with probability near 0: Schwartz 1980, Zippel
1979). Input is bounded in length and in the size of its powers before any library sees it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mirl_core.algorithm.answers.units import known_unit

MAX_LENGTH = 120
MAX_POWER = 200
MAX_VALUE = 10**300
"""Largest number and denominator compared by value: Python refuses to print longer integers."""
MAX_DIGITS = 15
"""Of a number, decimals included: math-verify reads decimals as floats of this precision."""
_DIGITS = 12
SMALLEST, LARGEST = 1e-20, 1e20
"""A value between these is no product of rounding."""

_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "log", "ln", "exp", "pi", "sqrt", "arcsin", "arccos", "arctan",
})  # fmt: skip
_COMMANDS = _FUNCTIONS | {
    "frac", "dfrac", "tfrac", "cfrac", "cdot", "times", "div", "pm", "left", "right", "infty", "cup", "cap",
    "in", "le", "leq", "ge", "geq", "lt", "gt",
    "ne", "neq", "sec", "csc", "lg", "alpha", "beta", "gamma", "lambda",
    "mu", "omega", "phi", "sigma", "theta",
}  # fmt: skip
_MARK = re.compile(r"[\\^=+*/<>|]|\d\s*-|-\s*\d|\d[a-z(]|^[(\[{].*,.*[)\]}]$")
_CHARACTERS = re.compile(r"[\w\s\\^=+*/<>|().,\[\]{}:-]*")
_POWER = re.compile(r"\^(?:\{\s*([-+/\s0-9a-z]{1,7})\}|(\d++|[a-z]|\\pi))(?!\s*\^)")
# Two signs in a row may be a dash and a sign; "1e5" is no product with Euler's number, "3x4" none with a
# variable.
_NOT_MATHS = re.compile(r"^[-+]\s*[-+]|(?<![\d.])\d+(?:\.\d+)?[eE][-+]?\d|\d\s?x\s?\d")
# Words of two letters that are no product of variables.
_WORDS = frozenset({
    "of", "to", "is", "in", "at", "by", "on", "as", "if", "it", "an", "no", "so", "we", "be", "do", "go",
    "he", "me", "my", "up", "us", "am", "pm", "vs",
})  # fmt: skip

_SYMBOLS = {
    "×": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ", "∙": "\\cdot ", "**": "^", "÷": "/", "≤": "\\le ",
    "≥": "\\ge ", "<=": "\\le ", ">=": "\\ge ", "≠": "\\ne ", "!=": "\\ne ", "∞": "\\infty ", "±": "\\pm ",
    "+/-": "\\pm ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "π": "\\pi ", "θ": "\\theta ",
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "λ": "\\lambda ", "μ": "\\mu ", "ω": "\\omega ",
    "φ": "\\phi ", "σ": "\\sigma ",
}  # fmt: skip
_SYMBOL = re.compile("|".join(map(re.escape, sorted(_SYMBOLS, key=len, reverse=True))))
_ARITHMETIC = re.compile(r"[\d^=+*/()<>|\\]|^(?:pi|infinity)$")
_NAME = re.compile(
    r"(?<![^\W\d_]|\\)(sqrt|pi|sin|cos|tan|cot|log|ln|exp|arcsin|arccos|arctan|theta|infinity)(?![^\W\d_])",
    re.I,
)
# In LaTeX the x of "1/2 x" would be below the line.
_FRACTION_OF = re.compile(r"(?<![\d/.^])(\d+)/(\d+) (?=[A-Za-z(\\])")
_ROOT = re.compile(r"\\sqrt\s*(\d{2,}|(?=\())|(?:the )?square root of (\w+)")
_BRACKETED_POWER = re.compile(r"\^\s?(?:\(([^()]*)\)|(-\d+))")
_UNIT = re.compile(r"(.+?(?:[\d})\]]|\\pi))(\s?)([^\W\d_%°][\w^{}/.·° -]*|[%°][\w ]*)")


def to_latex(text: str) -> str:
    """Return an expression in plain text as LaTeX: `sqrt(2)/2` → `\\sqrt{2}/2`, `x^(1/2)` → `x^{1/2}`."""
    text = _SYMBOL.sub(lambda symbol: _SYMBOLS[symbol[0]], text)
    if not _ARITHMETIC.search(text):
        return _ROOT.sub(_braced_root, text)
    if text.count("=") > 1:
        text = re.sub(",? and ", ", ", text)
    text = _NAME.sub(lambda name: "\\infty" if name[0] == "infinity" else f"\\{name[0].lower()}", text)
    text = _BRACKETED_POWER.sub(lambda power: f"^{{{power[1] or power[2]}}}", text)
    text = _FRACTION_OF.sub(r"\\frac{\1}{\2} ", text)
    return _bracket_roots(_ROOT.sub(_braced_root, text)).strip()


def _braced_root(match: re.Match[str]) -> str:
    radicand = match[1] or match[2]
    return f"\\sqrt{{{radicand}}}" if radicand else "\\sqrt"


def _bracket_roots(text: str) -> str:
    """Return the text with braces for the round brackets of its square roots."""
    while (start := text.find("\\sqrt(")) >= 0:
        depth = 0
        for end in range(start + 5, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0:
                break
        else:
            return text
        text = f"{text[: start + 5]}{{{text[start + 6 : end]}}}{text[end + 1 :]}"
    return text


def split_unit(text: str) -> tuple[str, str]:
    """Return an expression without the known unit behind it, and the unit's key; empty where there is none.

    Only a constant has a unit: the last letter of `\\pi r^2 h` is a variable.
    """
    match = _UNIT.fullmatch(text)
    unit = known_unit(match[3]) if match else None
    if not match or unit is None or (len(match[3]) == 1 and match[3].isalpha() and not match[2]):
        return text, ""
    if re.search("[A-Za-df-z]", re.sub(r"\\[A-Za-z]+", "", match[1])):
        return text, ""
    return match[1], unit


def looks_mathematical(text: str) -> bool:
    """Return whether `text` is an expression rather than words, and small enough to be parsed."""
    if (
        len(text) > MAX_LENGTH
        or not _MARK.search(text)
        or not _CHARACTERS.fullmatch(text)
        or _NOT_MATHS.search(text)
    ):
        return False
    if any(command not in _COMMANDS for command in re.findall(r"\\([A-Za-z]+)", text)):
        return False
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    # Two letters may be a product, such as xy; more are a word.
    if any(len(word) > 2 and word not in _FUNCTIONS for word in words) or text[-1] in "+-*/^=<>":
        return False
    if not _WORDS.isdisjoint(words) or ("or" in words and not re.search("[=<>]", text)):
        return False
    longest = max(
        (len(number) - number.count(".") for number in re.findall(r"\d+(?:\.\d+)?", text)), default=0
    )
    return longest <= MAX_DIGITS and _bounded_powers(text)


def _bounded_powers(text: str) -> bool:
    """Return whether every exponent is short, and their product, which nesting could reach, is small."""
    exponents = [braced or bare for braced, bare in _POWER.findall(text)]
    if len(exponents) != text.count("^"):
        return False
    product = 1.0
    for exponent in exponents:
        numbers = [int(digits) for digits in re.findall(r"\d+", exponent)]
        product *= max(3.0 * len(re.findall("[a-z]", exponent)) + sum(numbers), 1.0)
    return product <= MAX_POWER


@lru_cache(maxsize=1024)
def canonical(text: str) -> tuple[Fraction | None, str]:
    """Return (exact value where it is a simple fraction, key); without math-verify the key is the text.

    Cached because a vote is counted again after every chain and parsing LaTeX takes milliseconds; a pure
    function of its argument.
    """
    plain = re.sub(r"\s+", "", text)
    try:
        expression = _parse(text)
        if expression is None:
            return None, plain
        if not expression.free_symbols and (value := _fraction(expression)) is not None:
            small = abs(value) <= MAX_VALUE and value.denominator <= MAX_VALUE
            return (value if small else None), plain
        return None, _fingerprint(expression)
    except ImportError:
        return None, plain
    except Exception:  # noqa: BLE001  sympy raises any exception; such text equals only itself
        return None, plain


def _parse(text: str) -> Any:
    """Return the sympy expression of a LaTeX text, or None."""
    import sympy
    from math_verify import LatexExtractionConfig, parse

    # It warns on every call that its time is not limited without signals; the bounds above limit it.
    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)
    # math-verify would drop units, and with them merge 2π cm with 2π kg.
    normalization = replace(LatexExtractionConfig().normalization_config, units=False)
    parsed = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig(normalization_config=normalization)],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    expression = next((item for item in parsed if not isinstance(item, str)), None)
    if expression is None:
        return None
    # Decimals are exact: 0.1 + 0.2 is 0.3.
    decimals = expression.atoms(sympy.Float)
    return expression.xreplace({decimal: sympy.Rational(str(decimal)) for decimal in decimals})


def _fraction(expression: Any) -> Fraction | None:
    """Return a rational value: exact for sums, products and powers of rationals, else to 27 digits."""
    if not getattr(expression, "is_number", False):
        return None
    exact = _rational(expression)
    if exact is not None:
        return exact
    value = _real(_number(expression))
    if value is None:
        return None
    decimal = Fraction(str(value))
    near = decimal.limit_denominator(1000)
    return near if abs(decimal - near) <= abs(near) / 10**27 else None


def _rational(expression: Any) -> Fraction | None:
    """Return the exact value of a sum, product or whole power of rationals; None for other expressions."""
    if expression.is_Rational:
        return Fraction(int(expression.p), int(expression.q))
    if type(expression).__name__ not in ("Add", "Mul", "Pow"):
        return None
    values = [_rational(argument) for argument in expression.args]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if expression.is_Add:
        return sum(known, Fraction())
    if expression.is_Mul:
        return math.prod(known, start=Fraction(1))
    base, exponent = known
    if exponent.denominator != 1 or abs(exponent) > MAX_POWER or (base == 0 and exponent <= 0):
        return None
    return base ** int(exponent)


def _number(expression: Any, **options: Any) -> Any:
    """Return a constant to 30 digits; 0 where only rounding is left of it; None where no digits can be had.

    At a pole (tan π/2) and where everything cancels, the digits are those of the rounding: they change with
    the precision of the computation.
    """
    import sympy

    value = expression.evalf(30, **options)
    if not value.is_number or value.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        return None
    size = abs(value)
    if SMALLEST < size < LARGEST:
        return value
    finer = expression.evalf(60, **options)
    if abs(finer - value) <= size / 10**10:
        return value
    return sympy.Integer(0) if size <= SMALLEST else None


def _real(value: Any) -> Any:
    return value if value is not None and (value.is_Float or value.is_Rational) else None


def _fingerprint(expression: Any) -> str:
    """Return an expression's values; for sets, intervals, tuples and relations the kind and parts' values."""
    import sympy

    if isinstance(expression, sympy.core.relational.Relational):
        sides = [_fingerprint(side) for side in expression.args]
        name = type(expression).__name__
        if name in ("StrictGreaterThan", "GreaterThan"):
            name, sides = name.replace("Greater", "Less"), sides[::-1]
        elif name in ("Equality", "Unequality"):
            sides.sort()
        return f"{name}({'; '.join(sides)})"
    if isinstance(expression, sympy.Set | sympy.Tuple):
        parts = [_fingerprint(part) for part in expression.args]
        if isinstance(expression, sympy.FiniteSet | sympy.Union | sympy.Intersection):
            parts.sort()
        return f"{type(expression).__name__}({'; '.join(parts)})"
    if not isinstance(expression, sympy.Expr) or expression.is_infinite:
        return str(expression)
    symbols = sorted(expression.free_symbols, key=str)
    if not symbols and (fraction := _fraction(expression)) is not None:
        return str(fraction)
    values = [
        _number(expression, subs={symbol: _point(str(symbol), salt) for symbol in symbols})
        for salt in range(2 if symbols else 1)
    ]
    if None in values:
        return str(expression)
    return "≈" + " ".join(_rounded(value) for value in values)


def _rounded(value: Any) -> str:
    parts = value.as_real_imag()
    # A part far smaller than the other is its rounding.
    least = max(map(abs, parts)) / 10**25
    parts = ["0" if abs(part) <= least else f"{part:.{_DIGITS}g}" for part in parts]
    return parts[0] if parts[1] == "0" else "+i".join(parts)


def _point(name: str, salt: int) -> Any:
    """Return a fixed rational between 0.5 and 1.5 for a variable."""
    import sympy

    digest = hashlib.blake2b(f"{salt} {name}".encode(), digest_size=4).digest()
    return sympy.Rational(1, 2) + sympy.Rational(int.from_bytes(digest, "big"), 2**32)
