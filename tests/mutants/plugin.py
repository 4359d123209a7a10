"""Pytest plugin that makes one mutant's test run short; loaded by `tests.mutants` only."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from mutmut.state import state

# Without it each forked run copies the memory of its parent page by page when it collects garbage.
os.register_at_fork(before=gc.freeze)

# A failing example need not be small, and the same examples must kill the same mutant in the next run.
settings.register_profile(
    "mutants",
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by their duration in the unmutated run: the first failure ends a mutant's run."""
    durations = state().duration_by_test
    items.sort(key=lambda item: durations.get(item.nodeid, 0.0))
