"""The messages of docs/troubleshooting.md are those of the code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VARIES = "…"
SHORTEST = 3
"""Characters of a part between two parts that vary; less would be in any message."""


@cache
def messages() -> str:
    """Return the code with texts of several lines on one, and with `…` in place of what is filled in."""
    paths = [
        path for root in ("mirl_core", "server", "clients/python") for path in (ROOT / root).rglob("*.py")
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return re.sub(r"\{[^{}\n]*\}", VARIES, re.sub(r'"\s*\n\s*f?"', "", code))


def is_real(message: str) -> bool:
    """Return whether the fixed parts of a message are on one line of the code, in this order."""
    parts = [part for part in message.split(VARIES) if len(part) >= SHORTEST]
    pattern = "[^\n]*".join(map(re.escape, parts))
    return bool(parts) and re.search(pattern, messages()) is not None


def documented() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:\d+ \| )?`([^`]+)`", text, re.M)
    return [*rows, *re.findall(r"^\*\*`([^`]+)`\*\*", text, re.M)]


def test_there_are_messages_of_each_kind() -> None:
    assert len(documented()) == len(set(documented())) + 1, "only the unknown key is in two tables"
    assert len(documented()) == 47


@pytest.mark.parametrize("message", sorted(set(documented())))
def test_the_message_is_in_the_code(message: str) -> None:
    assert is_real(message)


@pytest.mark.parametrize("message", ["port … is occupied", "…", "there is no model … and no hub"])
def test_other_messages_are_not_in_the_code(message: str) -> None:
    assert not is_real(message)
