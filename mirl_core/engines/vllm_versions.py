"""The versions of vLLM that MIRL supports: in its own process and, by their token routes, elsewhere."""

from __future__ import annotations

import re

SUPPORTED = ("0.32", "0.33")
"""The first two numbers of each; as in the extra `gpu`."""


def is_supported(version: str) -> bool:
    """Return whether MIRL supports this version of vLLM; a build's suffix doesn't matter."""
    numbers = re.match(r"\d+\.\d+(?!\d)", version)
    return numbers is not None and numbers[0] in SUPPORTED
