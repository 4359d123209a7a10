"""An answer's text without what surrounds the answer: markup, delimiters, "the answer is", `x =`."""

from __future__ import annotations

import re

from mirl_core.algorithm.answers.quantities import read_quantity

__all__ = ["strip_markup"]

_LEAD = re.compile(
    r"(?:so,? |thus,? )?(?:the )?(?:(?:correct|final|right) )?(?:answer|choice) ?(?:is:?|:) ?", re.I
)
_DELIMITERS = ("$$ $$", "$ $", "\\( \\)", "\\[ \\]", "** **", "` `", '" "', "“ ”", "' '", "‘ ’")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: 0x20,
    0xA0: 0x20,
    0x202F: 0x20,
}


def strip_markup(text: str) -> str:
    """Return `text` without the markup around it, the words that lead to it, and a final full stop."""
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
    if named and (read_quantity(named[1]) or not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", named[1]))):
        return named[1]
    return text
