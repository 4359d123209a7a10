"""The charts report: tables by hand from made-up figures, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mirl_core.errors import ConfigError
from mirl_core.tasks.worlds.charts.scenes import KINDS
from mirl_core.training.charts.report import (
    best_temperature,
    cell,
    properties_table,
    shift_table,
    temperature_table,
    write_report,
)


def share(percent: float, n: int = 100) -> dict[str, Any]:
    return {"percent": percent, "interval": [percent - 2, percent + 2], "n": n}


def headroom() -> dict[str, Any]:
    def at(vote: float, gain: float) -> dict[str, Any]:
        points = {"points": gain, "interval": [gain - 1, gain + 1], "n": 100}
        return {
            "vote": share(vote),
            "vote_minus_greedy": points,
            "sample": share(50.0, 1600),
            "sample_description": share(40.0, 1600),
            "distinct_descriptions": 9.5,
        }

    return {
        "greedy": share(60.0),
        "greedy_description": share(61.0),
        "T=0.6": at(64.5, 4.5),
        "T=1.0": at(62.0, 2.0),
        "mentions": {
            "distinct_orders_of_16": 8.0,
            "distinct_sets_of_16": 3.0,
            "share_of_columns_mentioned": 0.7,
            "description_tokens": 9.4,
            "chain_tokens": 53.6,
            "chain_to_description": 5.78,
            "n": 100,
        },
    }


def record(disagree: float = 25.0) -> dict[str, Any]:
    kind = {
        "headroom": headroom(),
        "forced": {
            "two_chains_disagree": share(disagree),
            "wrong_description_values_kept_greedy": share(99.0),
            "wrong_description_values_kept_sampled": share(94.0),
        },
        "calibration": {
            "values_right": share(80.0),
            "unusual_read_as_usual": {"percent": None, "interval": None, "n": 0},
            "mass_on_usual": 82.1,
            "truth_is_usual": 75.2,
            "calibration_error_points": 3.4,
            "curve": [{"confidence": 55.0, **share(50.0)}, {"confidence": 95.0, **share(96.0)}],
        },
    }
    return {"folder": "charts-describe", "n": 100, "start": 3000, **dict.fromkeys(KINDS, kind)}


def test_the_best_temperature_is_that_whose_votes_are_right_most_often() -> None:
    assert best_temperature(headroom()) == "T=0.6"


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (share(63.2), "63.2 [61.2, 65.2]"),
        ({"points": -1.0, "interval": [-2.0, 0.5], "n": 9}, "-1.0 [-2.0, +0.5]"),
        ({"percent": None, "interval": None, "n": 0}, "–"),
    ],
)
def test_cells_show_the_interval(figure: dict[str, Any], text: str) -> None:
    assert cell(figure) == text


def test_each_property_is_held_against_its_bound() -> None:
    lines = properties_table(record()).splitlines()
    assert (
        "| (a) 16 votes over greedy, points | at least 3, wanted 3 to 6 | +4.5 [+3.5, +5.5] | 100 | met |"
        in lines
    )
    assert "| (b) chain over description, tokens | at least 4 | 5.8 | 100 | met |" in lines
    assert "| (c) one sampled trajectory right, % | 40 to 75 | 50.0 [48.0, 52.0] | 1600 | met |" in lines
    assert "| (c) the same, sampled, % | at least 95 | 94.0 [92.0, 96.0] | 100 | **not met** |" in lines
    for outside in (14.9, 35.1):
        missed = [line for line in properties_table(record(outside)).splitlines() if "disagree" in line]
        assert missed[0].endswith("| **not met** |")


def test_every_kind_has_its_row_and_every_temperature() -> None:
    rows = shift_table(record()).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {kind}" for kind in KINDS]
    assert "| – | 82.1 | 75.2 | 3.4 |" in rows[0]
    temperatures = temperature_table(headroom()).splitlines()[2:]
    assert [row.split(" | ")[0] for row in temperatures] == ["| 0.6", "| 1.0"]


def test_the_command_writes_the_document_and_its_pictures(tmp_path: Path) -> None:
    output = tmp_path / "docs"
    whole = record()
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps({key: whole[key] for key in ("n", "start", "iid")}))
    second.write_text(json.dumps({key: value for key, value in whole.items() if key != "iid"}))
    command = [sys.executable, "-m", "mirl_core.training.cli", "charts-report", str(first), str(second)]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = (output / "bundled-model.md").read_text()
    images = {path.name for path in (output / "images").iterdir()}
    assert images == {"charts-shift.png", *(f"charts-{kind}.png" for kind in KINDS)}
    assert all(f"images/{name}" in written for name in images)
    assert "| (a) 16 votes over greedy" in written
    assert "on **dev** scenes from 3000 on" in written


def test_a_file_without_figures_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    broken = tmp_path / "figures.json"
    broken.write_text("[1")
    command = [sys.executable, "-m", "mirl_core.training.cli", "charts-report", str(broken)]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mirl-train: {broken} holds no figures: ")
    assert len(done.stderr.splitlines()) == 1


def test_missing_figures_are_named(tmp_path: Path) -> None:
    partial = record()
    partial["half"] = {"headroom": {}}
    with pytest.raises(ConfigError, match="no section calibration of half: measure all kinds"):
        write_report(partial, tmp_path)
