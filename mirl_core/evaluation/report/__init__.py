"""A Markdown report and plots of a run's `summary.json`; imports measures and the shared figures and
tables. `browser/` makes the page of questions, for which it also replays methods on the bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.evaluation.report.summary import read_summary

__all__ = ["write_report"]


def write_report(folder: Path, show: Sequence[str] | None = None) -> list[Path]:
    """Draw `report.md` and `plots/` anew from `folder/summary.json` alone; return the written files.

    Args:
        show: methods in the plots, where all would crowd them; None: all.

    Raises:
        ConfigError: there is no summary, `mirl-eval run` did not write it, or it has no such method.
    """
    from mirl_core.evaluation.report.plots import draw_plots
    from mirl_core.evaluation.report.tables import markdown

    summary = read_summary(folder)
    plots = draw_plots(summary if show is None else _only(summary, show), folder / "plots")
    report = folder / "report.md"
    report.write_text(markdown(summary, [plot.relative_to(folder) for plot in plots]), encoding="utf-8")
    return [report, *plots]


def _only(summary: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """Return the summary with these methods alone in the entries that plots draw by method."""
    known = {name for rows in summary["data"].values() for name in rows}
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(
            f"show: the run has no method {unknown[0]!r}; it has: {', '.join(sorted(known))}", param="show"
        )
    kept = {
        part: {
            data: {name: row for name, row in rows.items() if name in methods}
            for data, rows in summary[part].items()
        }
        for part in ("data", "reliability")
    }
    return {**summary, **kept}
