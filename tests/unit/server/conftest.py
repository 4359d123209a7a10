"""Fixtures for the routes on a fake engine, reached in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.unit.server.harness import Harness, make_harness


@pytest.fixture
async def server() -> AsyncIterator[Harness]:
    """The routes over a fake engine; nothing may be left running in it."""
    harness = make_harness()
    yield harness
    assert harness.engine.running == 0


@pytest.fixture
def build() -> Callable[..., Harness]:
    return make_harness


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, by which windows of quotas are counted; it stands still but for the test."""
    clock = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    return clock
