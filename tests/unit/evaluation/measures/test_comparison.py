"""`mirl-eval compare` on several data sets: a row each, then one on all of their questions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mirl_core.evaluation.measures.comparison import ALL_DATA, compare_runs, read_side
from mirl_core.evaluation.run.command import run
from tests.unit.evaluation.run.run_cases import fill_bank, no_engine, settings_of


def test_questions_of_all_data_sets_are_compared_together(tmp_path: Path) -> None:
    data = ("digits/iid", "digits/shifted")
    folders = []
    for name, skill in (("good", 0.8), ("poor", 0.3)):
        settings = settings_of(tmp_path / name, data=data, methods="direct,sc@4", n=8)
        fill_bank(settings, skill=skill)
        asyncio.run(run(settings, no_engine()))
        folders.append(settings.output)
    rows = compare_runs(*(read_side(str(folder), None) for folder in folders))
    assert [(row.data, row.method_a) for row in rows] == [
        *((name, method) for name in data for method in ("direct", "sc@4")),
        (ALL_DATA, "direct"),
        (ALL_DATA, "sc@4"),
    ]
    for method in (0, 1):
        iid, shifted, together = rows[method::2]
        # As many questions of each: the mean over all is the mean of the means.
        assert together.comparison.difference.n == 16
        assert together.accuracy_a == pytest.approx((iid.accuracy_a + shifted.accuracy_a) / 2)
        means = [row.comparison.difference.mean for row in (iid, shifted, together)]
        assert means[2] == pytest.approx((means[0] + means[1]) / 2)
        only = [row.comparison.mcnemar.only_a for row in (iid, shifted, together)]
        assert only[2] == only[0] + only[1]
