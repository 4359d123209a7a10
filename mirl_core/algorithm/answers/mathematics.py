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
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

MAX_LENGTH = 120
MAX_POWER = 200
MAX_VALUE = 10**300
"""Largest number that is compared by value, others by their text: Python refuses to print longer integers."""
_DIGITS = 12

_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "log", "ln", "pi", "sqrt"})
_COMMANDS = _FUNCTIONS | {
    "frac", "dfrac", "tfrac", "cdot", "times", "div", "pm", "left", "right", "infty", "cup", "cap", "in",
    "le", "leq", "ge", "geq", "lt", "gt", "ne", "neq", "sec", "csc", "lg", "alpha", "beta", "gamma", "lambda",
    "mu", "omega", "phi", "sigma", "theta",
}  # fmt: skip
_MARK = re.compile(r"[\\^=+*/<>|]|\d\s*-|-\s*\d|\d[a-z(]|^[(\[{].*,.*[)\]}]$")
_CHARACTERS = re.compile(r"[\w\s\\^=+*/<>|().,\[\]{}:-]*")
_POWER = re.compile(r"\^(?:\{\s*([-+/\s0-9a-z]{1,7})\}|(\d++|[a-z]|\\pi))(?!\s*\^)")


def looks_mathematical(text: str) -> bool:
    """Return whether `text` is an expression rather than words, and small enough to be parsed."""
    if len(text) > MAX_LENGTH or not _MARK.search(text) or not _CHARACTERS.fullmatch(text):
        return False
    if any(command not in _COMMANDS for command in re.findall(r"\\([A-Za-z]+)", text)):
        return False
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    # Two letters may be a product, such as xy; more are a word.
    if any(len(word) > 2 and word not in _FUNCTIONS for word in words) or text[-1] in "+-*/^=<>":
        return False
    return max(map(len, re.findall(r"\d+", text)), default=0) <= 15 and _bounded_powers(text)


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
            return (value, plain) if abs(value) <= MAX_VALUE else (None, plain)
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
    parsed = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig()],
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
    """Return the value if it is a fraction of small denominator, to far below the distance of any other."""
    if not getattr(expression, "is_number", False):
        return None
    value = expression.evalf(30)
    if not value.is_Float and not value.is_Rational:
        return None
    exact = Fraction(str(value))
    near = exact.limit_denominator(1000)
    # Relative, so that 10⁻⁹⁹ is not 0; an exact 0 that sympy doesn't recognise evaluates to less than 10⁻¹⁰⁰.
    return near if abs(exact - near) <= max(abs(near) / 10**27, Fraction(1, 10**100)) else None


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
        expression.evalf(30, subs={symbol: _point(str(symbol), salt) for symbol in symbols})
        for salt in range(2 if symbols else 1)
    ]
    if not all(value.is_number for value in values):
        return str(expression)
    return "≈" + " ".join(_rounded(value) for value in values)


def _rounded(value: Any) -> str:
    real, imaginary = value.as_real_imag()
    parts = ["0" if abs(part) < 1e-40 else f"{part:.{_DIGITS}g}" for part in (real, imaginary)]
    return parts[0] if parts[1] == "0" else "+i".join(parts)


def _point(name: str, salt: int) -> Any:
    """Return a fixed rational between 0.5 and 1.5 for a variable."""
    import sympy

    digest = hashlib.blake2b(f"{salt} {name}".encode(), digest_size=4).digest()
    return sympy.Rational(1, 2) + sympy.Rational(int.from_bytes(digest, "big"), 2**32)
