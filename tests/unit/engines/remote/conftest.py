"""What the tests of the engine over HTTP share."""

from __future__ import annotations

import pytest

from mirl_core.engines.remote import checks
from tests.unit.engines.remote.remote_cases import Letters


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Load `Letters` in place of a tokenizer; return from where."""
    names: list[str] = []

    def load(name: str) -> tuple[Letters, frozenset[int]]:
        names.append(name)
        return Letters(), frozenset({7})

    monkeypatch.setattr(checks, "load_tokenizer", load)
    return names
