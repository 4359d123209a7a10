"""Vocabularies whose tokens are cut where tests need it."""

from __future__ import annotations

from collections.abc import Sequence


def by_byte(ids: Sequence[int]) -> str:
    """A vocabulary of bytes, the hardest case: every character beyond ASCII takes several tokens."""
    return bytes(ids).decode(errors="replace")
