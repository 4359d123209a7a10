"""Fixtures: Helm, and every example as Helm renders it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.chart.helm import EXAMPLES, Helm, example, start


@pytest.fixture(scope="package")
def helm() -> Iterator[Helm]:
    with start() as running:
        yield running


@pytest.fixture(scope="package")
def answers(helm: Helm) -> dict[str, dict[str, Any]]:
    """What Helm answers to every example, and to no values at all."""
    return {"defaults": helm.answer({}), **{name: helm.answer(example(name)) for name in EXAMPLES}}
