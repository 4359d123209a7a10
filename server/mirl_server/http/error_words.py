"""The words of an error that reach a client: nothing of a picture, nothing of a library's source files."""

from __future__ import annotations

import re

ELLIPSIS = "…"
LONGEST = 8000
"""Most characters of a message: a field's own words may be megabytes."""
_CONSTRAINT = "it asks for something that answers can't be held to"
_DATA_URL = re.compile(r"data:[\w.+/*;=%-]{0,256},[A-Za-z0-9+/=_-]+", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}", re.ASCII)
_MIXED = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))
# pydantic quotes the beginning and the end of what was wrong, which in a message is a picture's.
_PYDANTIC_INPUT = re.compile(r" ?\[type=[\w.]+, input_value=.*?(?:, input_type=[\w.]+\]|\Z)", re.DOTALL)
_PYDANTIC_LINK = re.compile(r"\n? *For further information visit https?://\S+")
_PYDANTIC_QUOTE = re.compile(r"""(['"]input['"]: )(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
# xgrammar's errors begin with a clock and the place in its C++ sources.
_XGRAMMAR = re.compile(r"\[\d\d:\d\d:\d\d\]\s*\S+\.(?:cc|cpp|h|hpp):\d+:?.*", re.DOTALL)


def clean(message: str) -> str:
    """Return an error's message without base64, quoted input, or the places of a library's source files."""
    if len(message) > LONGEST:
        message = message[:LONGEST] + ELLIPSIS
    message = _XGRAMMAR.sub(_CONSTRAINT, message)
    for pattern in (_PYDANTIC_INPUT, _PYDANTIC_LINK):
        message = pattern.sub("", message)
    message = _PYDANTIC_QUOTE.sub(rf"\1'{ELLIPSIS}'", message)
    return _RUN.sub(_without_base64, _DATA_URL.sub(f"data:{ELLIPSIS}", message))


def _without_base64(run: re.Match[str]) -> str:
    """Return a run of letters and digits, unless it is base64: a name has not all kinds of them."""
    return ELLIPSIS if all(kind.search(run[0]) for kind in _MIXED) else run[0]
