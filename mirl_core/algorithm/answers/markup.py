"""An answer's text without what surrounds the answer: markup, delimiters, "the answer is", "about", `x =`."""

from __future__ import annotations

import re

from mirl_core.algorithm.answers.quantities import read_quantity
from mirl_core.algorithm.answers.spelling import fold
from mirl_core.algorithm.answers.statements import strip_lead

__all__ = ["strip_markup"]

_FONTS = (
    "boxed|fbox|text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|operatorname|mbox|emph"
)
# A command such as \pi would swallow the letters of a text right behind it.
_AFTER_COMMAND = re.compile(rf"(\\[A-Za-z]+)(?=\\(?:{_FONTS})\{{\w)")
_FONT = re.compile(rf"\\(?:{_FONTS})\s?\{{")
_SIZE = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])\s?")
_DELIMITERS = (
    "$$ $$",
    "$ $",
    "\\( \\)",
    "\\[ \\]",
    "** **",
    "__ __",
    "` `",
    '" "',
    "“ ”",
    "' '",
    "‘ ’",
    "« »",
    "„ “",
)
_REPLACED = (
    ("\\%", "%"), ("{}^", "^"), ("^{\\circ}", "°"), ("^\\circ", "°"),
    ("^{\\degree}", "°"), ("^\\degree", "°"), ("\\degree", "°"),
)  # fmt: skip
_EMPHASIS = re.compile(r"\*\*(?=\S)([^*]+)\*\*")
_HEDGE = re.compile(
    r"^(?:about|around|roughly|approximately|approx\.?|circa|ca\.|exactly|≈|=)\s?(?=[-+$€£¥₹.\\]?\s?\d)", re.I
)
_HEDGE_BEHIND = re.compile(
    r"(?<=\w) (?:\((?:approximately|approx\.?|about|roughly)\)|approximately|approx\.?)$", re.I
)
_ROOT = re.compile(r"([√∛∜])(\d+|\w|\([^()]*\))(?!\w)")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}
_NAMED = re.compile(r"[a-zA-Z] ?= ?([^=]+)")
_LAYERS = 3


def strip_markup(text: str) -> str:
    """Return `text`, folded, without markup around it, leading words (`answer:`) and final punctuation."""
    text = fold(text)
    if "\\" in text:
        text = _plain_latex(text)
    text = text.replace("~", " ").replace("{,}", ",").strip()
    text = strip_lead(_EMPHASIS.sub(r"\1", text))
    for _ in range(_LAYERS):
        before = text
        if text.endswith((".", "。", ",", ";")) and not text.endswith(".."):
            text = text[:-1].rstrip()
        for left, right in map(str.split, _DELIMITERS):
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner and right not in inner:
                text = inner.strip()
        if text == before:
            break
    text = " ".join(text.replace("\\$", "$").replace("π", "\\pi ").split())
    text = _HEDGE_BEHIND.sub("", _HEDGE.sub("", _ROOT.sub(_root, text)))
    # "x = 5" says 5; "y = 2x" says how y depends on x.
    named = _NAMED.fullmatch(text)
    if named and (read_quantity(named[1]) or not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", named[1]))):
        return named[1]
    return text


def _root(match: re.Match[str]) -> str:
    return f"\\sqrt{_DEGREES[match[1]]}{{{match[2]}}}"


def _plain_latex(text: str) -> str:
    text = _without_fonts(_AFTER_COMMAND.sub(r"\1 ", text))
    text = _SIZE.sub("", text)
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = re.sub(r"\\!\s?", "", text)
    return " ".join(re.sub(r"\\[,;: ]|\\q?quad\b", " ", text).split())


def _without_fonts(text: str) -> str:
    """Return the text with the contents of boxes and fonts alone; a brace that never closes stays."""
    start = 0
    while match := _FONT.search(text, start):
        depth, start = 1, match.start()
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                text = text[:start] + text[match.end() : end] + text[end + 1 :]
                break
        else:
            start = match.end()
    return text
