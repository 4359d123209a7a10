"""The terminal's tables: what stands where, within 80 columns, and what a sample can show."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mirl_core.evaluation.measures.comparison import ComparisonRow
from mirl_core.evaluation.measures.statistics import Comparison, McNemar, detectable_difference
from mirl_core.evaluation.report.terminal import print_comparison, print_summary, sample_words
from mirl_core.tasks.resampling import Estimate

LONG = "steered(ahead=0;contrast=0,0.5;share_chains=false)"


def compared(n: int = 100, discordance: float = 0.1, **changed: Any) -> dict[str, Any]:
    """One method's entry among a summary's comparisons."""
    return {
        "difference": -0.125,
        "low": -0.25,
        "high": 0.0625,
        "n": n,
        "tokens_ratio": 0.5,
        "discordance": discordance,
        "design_effect": 1.0,
        "holm_p": 0.0434,
    } | changed


def figures(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": accuracy - 0.125, "high": accuracy + 0.125, "n": 100}


SUMMARY: dict[str, Any] = {
    "data": {
        "charts/iid": {"sc@16": figures(0.75), LONG: figures(0.625)},
        "charts/shifted": {"sc@16": figures(0.5), "mirl": figures(0.875)},
    },
    "comparisons": {
        "charts/iid": {"baseline": "sc@16", "methods": {LONG: compared()}},
        "charts/shifted": {
            "baseline": "sc@16",
            "methods": {
                "mirl": compared(
                    20, 0.4, difference=0.375, low=0.0, high=0.75, holm_p=None, tokens_ratio=None
                )
            },
        },
    },
}


def printed(width: int, summary: dict[str, Any] = SUMMARY) -> str:
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=width))
    return file.getvalue()


def test_a_summary_on_a_terminal_of_80_columns() -> None:
    assert [line.rstrip() for line in printed(80).splitlines()] == [
        "",
        "charts/iid",
        " method                  accuracy, %    difference, points   p, Holm   tokens ×",
        "────────────────────────────────────────────────────────────────────────────────",
        " sc@16             75.0 [62.5, 87.5]              baseline                    1",
        " steered(ahead=0   62.5 [50.0, 75.0]   -12.5 [-25.0, +6.2]     0.043       0.50",
        " ;contrast=0,0.5",
        " ;share_chains=f",
        " alse)",
        "n = 100 shows differences from 8.8 points on",
        "",
        "charts/shifted",
        " method                accuracy, %    difference, points   p, Holm   tokens ×",
        "──────────────────────────────────────────────────────────────────────────────",
        " sc@16           50.0 [37.5, 62.5]              baseline                    1",
        " mirl           87.5 [75.0, 100.0]   +37.5 [+0.0, +75.0]         –          –",
        "n = 20 decides nothing: differences below 37 points would not be seen",
        "",
        "Difference and tokens: to the baseline. Brackets: 95% intervals. p, Holm: of the",
        "difference, over shared scenes and glyphs, adjusted for 2 data sets. Shown,",
        "seen: with 80% power.",
    ]


def test_in_a_file_nothing_is_cut_or_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(SUMMARY)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if LONG in line]
    assert row.split() == [LONG, "62.5", "[50.0,", "75.0]", "-12.5", "[-25.0,", "+6.2]", "0.043", "0.50"]
    assert max(map(len, lines)) < 250


def test_a_method_without_a_comparison_has_dashes() -> None:
    bare = {"data": {"x": {"direct": figures(0.5)}}, "comparisons": {}}
    (row,) = [line.split() for line in printed(80, bare).splitlines() if line.split()[:1] == ["direct"]]
    assert row == ["direct", "50.0", "[37.5,", "62.5]", "–", "–", "–"]


@pytest.mark.parametrize(
    ("comparisons", "words"),
    [
        ({}, ""),
        ({"a": compared(3)}, "n = 3 decides nothing: no difference would be seen"),
        # Connor's formula where all differ in one direction.
        ({"a": compared(20, 0.0)}, "n = 20 decides nothing: differences below 35 points would not be seen"),
        ({"a": compared(70, 0.0)}, "n = 70 decides nothing: differences below 11 points would not be seen"),
        ({"a": compared(80, 0.0)}, "n = 80 shows differences from 9.5 points on"),
        ({"a": compared(626, 0.2)}, "n = 626 shows differences from 5.0 points on"),
        (
            {"a": compared(626, 0.2), "b": compared(626, 0.1), "c": compared(626, 0.15)},
            "n = 626 shows differences from 4.3 points on in half of the comparisons, from 5.0 on in all",
        ),
        # The sharpest comparison decides whether the sample does.
        (
            {"a": compared(100, 0.0), "b": compared(100, 0.5)},
            "n = 100 shows differences from 20 points on",
        ),
        (
            {"a": compared(100, 0.0), "b": compared(100, 0.0), "c": compared(100, 0.0, design_effect=50.0)},
            "n = 100 shows differences from 7.7 points on in half of the comparisons, from ∞ on in all",
        ),
        (
            {"a": compared(100, 0.0, design_effect=2.0)},
            "n = 100 decides nothing: differences below 15 points would not be seen",
        ),
    ],
)
def test_what_a_sample_can_show(comparisons: dict[str, dict[str, Any]], words: str) -> None:
    assert sample_words(comparisons) == words


def test_the_words_have_the_figure_of_the_section_on_sample_size() -> None:
    least = detectable_difference(0.2, 1000)
    assert least is not None
    assert (
        sample_words({"a": compared(1000, 0.2)})
        == f"n = 1000 shows differences from {100 * least:.1f} points on"
    )


def test_a_comparison_of_two_methods(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = Comparison(
        Estimate(-0.125, -0.25, 0.0625, 40),
        Estimate(0.5, 0.4, 0.6, 40),
        McNemar(3, 8, 0.0004),
        0.3,
        1.0,
        0.02,
    )
    print_comparison([ComparisonRow("charts/iid", LONG, "sc@16", 0.625, 0.75, comparison)])
    lines = capsys.readouterr().out.splitlines()
    head, row = (next(line.split() for line in lines if word in line) for word in ("A, %", LONG))
    assert " ".join(head) == "data A B n A, % B, % A - B, points only A / B p tokens A/B"
    assert " ".join(row) == f"charts/iid {LONG} sc@16 40 62.5 75.0 -12.5 [-25.0, +6.2] 3 / 8 <0.001 0.50"
    assert lines[-1] == (
        "Brackets: 95% bootstrap interval over scenes and glyphs. p: McNemar's exact test, first draw."
    )
