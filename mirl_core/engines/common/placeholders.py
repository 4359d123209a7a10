"""Tokens that stand for media in a prompt; never to be sampled, because there are no media for them."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"(image|video|audio|vision)\w*_token_(id|index)")


def placeholder_ids(config: Any, vocab_size: int) -> frozenset[int]:
    """Return the placeholder tokens that a transformers model config names, inside the vocabulary."""
    return frozenset(
        value
        for name, value in vars(config).items()
        if _NAME.fullmatch(name) and isinstance(value, int) and 0 <= value < vocab_size
    )
