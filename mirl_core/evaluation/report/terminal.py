"""Results on the terminal: tables within 80 columns, where long method names fold; uncut in files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirl_core.evaluation.report.tables import detectable, p_value
from mirl_core.tasks.content import named_some
from mirl_core.tasks.markdown_tables import percent, points

if TYPE_CHECKING:
    from mirl_core.evaluation.measures.comparison import ComparisonRow

__all__ = ["print_comparison", "print_summary", "sample_words"]

MOST_POINTS = 10.0
"""A sample decides nothing where even its sharpest comparison would not show a difference of so many points:
methods that share their samples seldom differ by more."""
_UNCUT = 10_000
"""Columns of a file, which has no width."""


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table for each data set of a run's summary, methods as rows, and what its sample can show.

    Args:
        console: None: standard output, as wide as the terminal, or as the widest line where it is none.
    """
    console = console or _standard_output()
    for name, methods in summary["data"].items():
        compared = summary["comparisons"].get(name) or {"baseline": None, "methods": {}}
        baseline = compared["baseline"]
        table = _table(method={"overflow": "fold", "min_width": 12})
        for head in ("accuracy, %", "difference, points", "p, Holm", "tokens ×"):
            table.add_column(head, justify="right", no_wrap=True)
        for method, row in methods.items():
            against = compared["methods"].get(method, {})
            ratio = against.get("tokens_ratio")
            _add(
                table,
                method,
                percent(row["accuracy"], row["low"], row["high"]),
                "baseline" if method == baseline else points(against),
                "" if method == baseline else p_value(against.get("holm_p")),
                "1" if method == baseline else "–" if ratio is None else f"{ratio:.2f}",
            )
        console.print(Text(f"\n{name}", "bold"))
        console.print(table)
        if words := sample_words(compared["methods"]):
            _line(console, words)
    sets = len(summary["data"])
    _line(
        console,
        "\nDifference and tokens: to the baseline. Brackets: 95% intervals. p, Holm: of the difference, over "
        f"shared scenes and glyphs, adjusted for {sets} data set{'s' if sets > 1 else ''}. "
        "Shown, seen: with 80% power.",
    )


def sample_words(comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what one data set's comparisons with the baseline can show, in plain words; empty without any.

    The figures are those of the report's section on sample size (`tables.detectable`): of the median
    comparison, and of the least sharp. Where even the sharpest would not show a difference of `MOST_POINTS`,
    the sample decides nothing.
    """
    if not comparisons:
        return ""
    n = next(iter(comparisons.values()))["n"]
    shares = sorted(detectable(row) or math.inf for row in comparisons.values())
    if shares[0] == math.inf:
        return f"n = {n} decides nothing: no difference would be seen"
    if 100 * shares[0] > MOST_POINTS:
        return f"n = {n} decides nothing: differences below {_points(shares[0])} points would not be seen"
    half, all_ = _points(statistics.median_high(shares)), _points(shares[-1])
    if half == all_:
        return f"n = {n} shows differences from {half} points on"
    return (
        f"n = {n} shows differences from {half} points on in half of the comparisons, from {all_} on in all"
    )


def print_comparison(rows: Sequence[ComparisonRow], console: Console | None = None) -> None:
    """Print two methods' or runs' comparisons as a table with a legend below; `console` as above."""
    console = console or _standard_output()
    table = _table(data={"no_wrap": True}, A={"overflow": "fold"}, B={"overflow": "fold"})
    for head in ("n", "A, %", "B, %", "A - B, points", "only A / B", "p", "tokens A/B"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        comparison = row.comparison
        _add(
            table,
            row.data,
            row.method_a,
            row.method_b,
            str(comparison.difference.n),
            percent(row.accuracy_a),
            percent(row.accuracy_b),
            points(comparison.to_json()),
            f"{comparison.mcnemar.only_a} / {comparison.mcnemar.only_b}",
            p_value(comparison.mcnemar.p),
            f"{comparison.tokens_ratio.mean:.2f}",
        )
    console.print(table)
    _line(
        console,
        "Brackets: 95% bootstrap interval over scenes and glyphs. p: McNemar's exact test, first draw.",
    )
    for row in {row.data: row for row in rows}.values():
        if row.left_out:
            _line(
                console,
                f"{row.data}: left out: {len(row.left_out)} that are not the same questions in both runs "
                f"({named_some(row.left_out)})",
            )
        if row.unchecked:
            _line(
                console,
                f"{row.data}: an earlier version noted no text and pictures of {row.unchecked}: whether they "
                "are the same questions is NOT checked",
            )


def _standard_output() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_UNCUT)


def _table(**columns: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for head, format_ in columns.items():
        table.add_column(head, **format_)
    return table


def _add(table: Table, *cells: str) -> None:
    """Add a row of plain text: brackets are no markup."""
    table.add_row(*map(Text, cells))


def _line(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False)


def _points(share: float) -> str:
    """Return a share in points, whole ones from ten on; `∞` for infinity."""
    if math.isinf(share):
        return "∞"
    return f"{100 * share:.0f}" if 100 * share >= MOST_POINTS else f"{100 * share:.1f}"
