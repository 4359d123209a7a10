"""One spelling of an answer's characters, which every comparison starts from.

Compatibility characters become plain ones (NFKC): full-width letters, ligatures, the two encodings of `é`.
What NFKC would garble is written out before: `10²` is `10^2` and not 102, `2½` is `2 1/2` and not 21/2, `45º`
is `45°`. Dashes and the minus sign are `-`, digits of all scripts are 0 to 9, any white space is one blank,
and characters of no width are left out.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["MAX_LENGTH", "fold", "fold_in_place"]

MAX_LENGTH = 4096
"""Longer texts stay as they are: ordering combining marks takes time quadratic in their number."""

_DASHES = dict.fromkeys("‐‑‒–—―⁃−➖⸺⸻﹘﹣－", "-")
_INVISIBLE = dict.fromkeys(
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063"
    "\u2064\u2066\u2067\u2068\u2069\ufe0e\ufe0f\ufeff"
)
_PLAIN = {
    "º": "°", "˚": "°", "∘": "°", "´": "'", "ʼ": "'", "⁄": "/", "∕": "/", "∶": ":", "™": "", "®": "",
    "〜": "~",
}  # fmt: skip
_CHARACTERS = str.maketrans(_DASHES | _INVISIBLE | _PLAIN)

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉"
_COMPOSED = re.compile(rf"([⁰¹²³⁴-⁹⁺⁻ⁿ]+)|([₀-₉₊₋]+)|(\d?)([{_VULGAR}])(?=([^\W\d_]|[(\\√])?)")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_APOSTROPHE = re.compile(r"(?<=\w)[’‘](?=\w)")

_SAME_LENGTH = str.maketrans(
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    | {ord(dash): "-" for dash in _DASHES}
    | dict.fromkeys((0xA0, 0x202F, 0x2007, 0x2009, 0x200A, 0x3000), " ")
)


def fold(text: str) -> str:
    """Return `text` with its characters in one spelling (see the module), and no white space around it."""
    if not text.isascii() and len(text) <= MAX_LENGTH:
        text = _COMPOSED.sub(_write_out, text.translate(_CHARACTERS))
        text = unicodedata.normalize("NFKC", text)
        # Compatibility forms of dashes and fractions appear only now.
        text = _APOSTROPHE.sub("'", text.translate(_CHARACTERS))
        text = _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    return " ".join(text.split())


def fold_in_place(text: str) -> str:
    """Return `text` with full-width characters, dashes and blanks made plain; every index stays valid."""
    return text if text.isascii() else text.translate(_SAME_LENGTH)


def _write_out(match: re.Match[str]) -> str:
    superscript, subscript, before, fraction, after = match.groups(default="")
    if fraction:
        numerator, denominator = unicodedata.normalize("NFKC", fraction).split("⁄")
        return f"{before}{' ' if before else ''}{numerator}/{denominator}{' ' if after else ''}"
    mark, plain = (
        ("^", superscript.translate(_SUPERSCRIPT)) if superscript else ("_", subscript.translate(_SUBSCRIPT))
    )
    return mark + (plain if len(plain) == 1 else f"{{{plain}}}")
