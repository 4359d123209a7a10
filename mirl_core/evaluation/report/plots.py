"""Plots of a summary, on matplotlib's file backend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirl_core.algorithm.gates import GATES
from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.evaluation.report import accuracy_cost
from mirl_core.tasks.plotting import COLOURS, method_colour, method_styles, panels, save, titles

__all__ = ["draw_plots"]

_ESTIMATOR_STYLES = dict(zip(ESTIMATORS, zip(COLOURS, "osD^vP*X", strict=False), strict=False))
_LINE_STYLES = ("-", "--", "-.", ":")
_MOST_RELIABILITY_LINES = 4
_FEWEST_IN_BIN = 5


def draw_plots(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the plots that the summary has figures for; return the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        # Members of a sweep over λ crowd one spot, and have a separate plot.
        accuracy_cost.draw(
            summary,
            folder / "accuracy-cost.png",
            {method for line in _sweeps(summary) for method in line.values() if "(" in method},
        ),
        _reliability(summary, folder / "reliability.png"),
        _selection(summary, folder / "selection.png"),
        _mi_weight(summary, folder / "mi-weight.png"),
    ]
    return [path for path in drawn if path is not None]


def _reliability(summary: Mapping[str, Any], path: Path) -> Path | None:
    shown = {name: methods for name, methods in summary["reliability"].items() if methods}
    if not shown:
        return None
    figure, axes = panels(len(shown), height=4.2)
    entries: dict[str, Any] = {}
    everywhere = list(dict.fromkeys(method for methods in shown.values() for method in methods))
    everywhere.sort(key=lambda method: (method != "mirl", method != "sc@16"))
    # More lines are indistinguishable; the table has them all.
    families = {_family(method): method for method in reversed(everywhere)}
    chosen = [method for method in everywhere if method in families.values()][:_MOST_RELIABILITY_LINES]
    styles = method_styles(chosen)
    colours = [styles[method][0] for method in chosen]
    for axis, (name, methods) in zip(axes, shown.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        for number, method in enumerate(chosen):
            # A bin of one or two questions is noise with a bar over the whole panel.
            bins = [bin_ for bin_ in methods.get(method, []) if bin_["questions"] >= _FEWEST_IN_BIN]
            if not bins:
                continue
            # Two methods' bins stand at nearly the same confidence: a small shift keeps both bars visible.
            reported = [bin_["said"] + 0.006 * (number - (len(chosen) - 1) / 2) for bin_ in bins]
            right = [bin_["right"] for bin_ in bins]
            spread = [
                [bin_["right"] - bin_["low"] for bin_ in bins],
                [bin_["high"] - bin_["right"] for bin_ in bins],
            ]
            entries[method] = axis.errorbar(
                reported,
                right,
                yerr=spread,
                color=colours[number],
                marker=styles[method][1],
                linestyle=_LINE_STYLES[colours[:number].count(colours[number])],
                markersize=4.5,
                linewidth=1.1,
                elinewidth=0.8,
                capsize=1.5,
            )
        axis.set_xlim(-0.02, 1.03)
        axis.set_ylim(-0.02, 1.03)
        axis.set_aspect("equal")
        titles(axis, name, "reported confidence", "share right")
    return save(figure, path, entries)


def _selection(summary: Mapping[str, Any], path: Path) -> Path | None:
    shown = {name: rows for name, rows in summary["selection"].items() if rows}
    if not shown:
        return None
    figure, axes = panels(len(shown))
    entries: dict[str, Any] = {}
    estimators = list(dict.fromkeys(row["estimator"] for rows in shown.values() for row in rows))
    for axis, (name, rows) in zip(axes, shown.items(), strict=True):
        for estimator in estimators:
            colour, marker = _ESTIMATOR_STYLES[estimator]
            for normalize, style in (("token", "-"), ("sum", "--")):
                line = [row for row in rows if (row["estimator"], row["normalize"]) == (estimator, normalize)]
                if not line:
                    continue
                weights = [row["mi_weight"] for row in line]
                label = f"{estimator}, {'per token' if normalize == 'token' else 'plain sum'}"
                (entries[label],) = axis.plot(
                    weights,
                    [row["auroc"] for row in line],
                    color=colour,
                    linestyle=style,
                    marker=marker,
                    markersize=4,
                    linewidth=1.3,
                )
                if normalize == "token":
                    lows, highs = [row["low"] for row in line], [row["high"] for row in line]
                    axis.fill_between(weights, lows, highs, color=colour, alpha=0.12, linewidth=0)
        axis.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        titles(
            axis, f"{name} (n = {rows[0]['n']})", "weight λ of the image-free term", "AUROC within questions"
        )
    return save(figure, path, entries)


def _mi_weight(summary: Mapping[str, Any], path: Path) -> Path | None:
    """Draw the gate's accuracy over λ, a line for each sweep."""
    lines = _sweeps(summary)
    shown = {
        name: methods
        for name, methods in summary["data"].items()
        if any(sum(method in methods for method in line.values()) >= 3 for line in lines)
    }
    if not shown:
        return None
    figure, axes = panels(len(shown))
    styles = method_styles(next(iter(line.values())) for line in lines)
    entries: dict[str, Any] = {}
    for axis, (name, methods) in zip(axes, shown.items(), strict=True):
        for number, line in enumerate(lines):
            points = [(weight, methods[method]) for weight, method in line.items() if method in methods]
            if not points:
                continue
            colour, marker = styles[next(iter(line.values()))]
            entries[_without_weight(next(iter(line.values())))] = axis.errorbar(
                [weight for weight, _ in points],
                [100 * row["accuracy"] for _, row in points],
                yerr=[
                    [100 * (row["accuracy"] - row["low"]) for _, row in points],
                    [100 * (row["high"] - row["accuracy"]) for _, row in points],
                ],
                color=colour,
                marker=marker,
                linestyle=_LINE_STYLES[number % len(_LINE_STYLES)],
                markersize=4.5,
                linewidth=1.3,
                elinewidth=0.8,
                capsize=2,
            )
        baseline = summary["comparisons"].get(name, {}).get("baseline")
        if baseline in methods:
            entries[baseline] = axis.axhline(
                100 * methods[baseline]["accuracy"],
                color=method_colour(baseline),
                linewidth=1,
                linestyle=(0, (6, 3)),
            )
        titles(axis, name, "weight λ of the image-free term", "accuracy, %")
    return save(figure, path, entries)


def _sweeps(summary: Mapping[str, Any]) -> list[dict[float, str]]:
    """Return λ → method for every three or more methods that gate by MI and differ only in λ."""
    groups: dict[str, dict[float, str]] = {}
    for method, options in (summary.get("methods") or {}).items():
        weight = (options or {}).get("mi_weight")
        if not isinstance(weight, int | float) or _family(method) != "mirl":
            continue
        if options.get("gate") not in GATES or not GATES[options["gate"]].needs_marginal:
            continue
        rest = {name: value for name, value in options.items() if name != "mi_weight"}
        groups.setdefault(repr(sorted(rest.items())), {}).setdefault(float(weight), method)
    return [dict(sorted(group.items())) for group in groups.values() if len(group) >= 3]


def _family(method: str) -> str:
    """Return the name without `@K` and options: `sc@16+stop` → `sc+stop`, `mirl(keep=3)` → `mirl`."""
    return re.sub(r"@\d+|\(.*\)", "", method)


def _without_weight(method: str) -> str:
    shortened = re.sub(r"mi_weight=[^;)]*;?", "", method).replace(";)", ")")
    return shortened.removesuffix("()")
