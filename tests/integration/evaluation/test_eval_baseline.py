"""The bundled model still does what its committed figures say (tests.benchmarks.bundled_model.baseline)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.bundled_model.baseline import BASELINE, METHODS, measure

pytestmark = [pytest.mark.usefixtures("real_vllm"), pytest.mark.full]

# Of 100 questions a split. Seeds are fixed, but how branches are batched, and with it some samples, is not.
POINTS = 0.04
TOKENS = 0.04


@pytest.mark.timeout(900)
async def test_figures_are_those_of_the_baseline(tmp_path: Path) -> None:
    committed = json.loads(BASELINE.read_text())
    measured = await measure(tmp_path)
    assert set(measured) == set(committed)
    for data, figures in committed.items():
        assert set(figures) == set(measured[data]) == {*METHODS, "chains"}
        for name, row in figures.items():
            for figure, value in row.items():
                off = TOKENS * value if figure == "tokens" else POINTS
                assert measured[data][name][figure] == pytest.approx(value, abs=off), (data, name, figure)
