"""From `summary.json` to what people read: a Markdown report and plots."""

from __future__ import annotations

from pathlib import Path

from mirl_core.evaluation.report.summary import read_summary

__all__ = ["write_report"]


def write_report(folder: Path) -> list[Path]:
    """Draw `report.md` and `plots/` anew from `folder/summary.json` alone; returns what was written.

    Raises:
        ConfigError: there is no summary, or it is not one of `mirl-eval run`.
    """
    from mirl_core.evaluation.report.plots import draw_plots
    from mirl_core.evaluation.report.tables import markdown

    summary = read_summary(folder)
    plots = draw_plots(summary, folder / "plots")
    report = folder / "report.md"
    report.write_text(markdown(summary, [plot.relative_to(folder) for plot in plots]), encoding="utf-8")
    return [report, *plots]
