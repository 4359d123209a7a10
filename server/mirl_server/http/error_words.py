"""The words of an error that reach a client: nothing of a picture, nothing of a library's source files."""

from __future__ import annotations

import re

ELLIPSIS = "…"
_CONSTRAINT = "it asks for something that answers can't be held to"
_DATA_URL = re.compile(r"data:[\w.+/*;=%-]{0,256},[A-Za-z0-9+/=_-]+", re.ASCII)
_BASE64 = re.compile(
    r"(?=[A-Za-z0-9+/]*[a-z])(?=[A-Za-z0-9+/]*[A-Z])(?=[A-Za-z0-9+/]*[0-9])[A-Za-z0-9+/]{64,}={0,2}", re.ASCII
)
# pydantic quotes the beginning and the end of what was wrong, which in a message is a picture's.
_PYDANTIC_INPUT = re.compile(r"\s*\[type=[\w.]+, input_value=.*?, input_type=[\w.]+\]", re.DOTALL)
_PYDANTIC_LINK = re.compile(r"\s*For further information visit https?://\S+")
_PYDANTIC_QUOTE = re.compile(r"""(['"]input['"]: )(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
# xgrammar's errors begin with a clock and the place in its C++ sources.
_XGRAMMAR = re.compile(r"\[\d\d:\d\d:\d\d\]\s*\S+\.(?:cc|cpp|h|hpp):\d+:?.*", re.DOTALL)


def clean(message: str) -> str:
    """Return an error's message without base64, quoted input, or the places of a library's source files."""
    message = _XGRAMMAR.sub(_CONSTRAINT, message)
    for pattern in (_PYDANTIC_INPUT, _PYDANTIC_LINK):
        message = pattern.sub("", message)
    message = _PYDANTIC_QUOTE.sub(rf"\1'{ELLIPSIS}'", message)
    return _BASE64.sub(ELLIPSIS, _DATA_URL.sub(f"data:{ELLIPSIS}", message))
