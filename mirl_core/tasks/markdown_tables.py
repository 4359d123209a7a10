"""Markdown tables of figures: shares in per cent, differences in points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["percent", "points", "table"]

_WORDS = frozenset(
    {"", " ", "data", "method", "estimator", "score", "normalised", "description", "run", "property"}
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, columns of words left, of figures right; empty without rows."""
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    if not lines:
        return ""
    ruler = "|" + "".join(" --- |" if name in _WORDS else " ---: |" for name in head)
    return "\n".join(["| " + " | ".join(head) + " |", ruler, *lines])


def percent(mean: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a share and its bounds as per cent: `71.3 [68.0, 74.4]`; a dash for None."""
    if mean is None:
        return "–"
    text = f"{100 * mean:.1f}"
    return text if low is None or high is None else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def points(row: Mapping[str, Any], name: str = "difference", low: str = "low", high: str = "high") -> str:
    """Return a difference of shares in points, with its sign: `+2.1 [-0.4, +4.6]`; a dash for None."""
    if row.get(name) is None:
        return "–"
    return f"{100 * row[name]:+.1f} [{100 * row[low]:+.1f}, {100 * row[high]:+.1f}]"
