"""Plots of a summary, on matplotlib's file backend."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.tasks.plotting import COLOURS, panels, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_plots"]

_MARKERS = "osD^vP*X<>hp"
_MOST_RELIABILITY_LINES = 4
_FEWEST_IN_BIN = 5


def draw_plots(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the plots that the summary has figures for; return the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        _accuracy_cost(summary, folder / "accuracy-cost.png"),
        _reliability(summary, folder / "reliability.png"),
        _selection(summary, folder / "selection.png"),
        _mi_weight(summary, folder / "mi-weight.png"),
    ]
    return [path for path in drawn if path is not None]


def _accuracy_cost(summary: Mapping[str, Any], path: Path) -> Path | None:
    # Members of a sweep over λ crowd one spot, and have a separate plot.
    hidden = {method for line in _sweeps(summary) for method in line.values() if "(" in method}
    shown = {
        name: {method: row for method, row in methods.items() if method not in hidden}
        for name, methods in summary["data"].items()
    }
    shown = {name: methods for name, methods in shown.items() if methods}
    if not shown:
        return None
    figure, axes = panels(len(shown))
    styles = _styles_of(dict.fromkeys(method for methods in shown.values() for method in methods))
    entries: dict[str, Any] = {}
    for axis, (name, methods) in zip(axes, shown.items(), strict=True):
        families: dict[str, list[tuple[float, float]]] = {}
        for method, row in methods.items():
            colour, marker = styles[method]
            accuracy = 100 * row["accuracy"]
            below, above = accuracy - 100 * row["low"], 100 * row["high"] - accuracy
            entries[method] = axis.errorbar(
                row["tokens"],
                accuracy,
                yerr=[[below], [above]],
                color=colour,
                marker=marker,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.5,
                elinewidth=0.9,
                capsize=2,
                linestyle="none",
                zorder=3,
            )
            if "@" in method:
                families.setdefault(_family(method), []).append((row["tokens"], accuracy))
        for family, line in families.items():
            colour = next(styles[method][0] for method in methods if _family(method) == family)
            axis.plot(*zip(*sorted(line), strict=True), color=colour, linewidth=0.9, alpha=0.5, zorder=2)
        _log_ticks(axis, [row["tokens"] for row in methods.values()])
        _titles(axis, name, "generated + scored tokens a question", "accuracy, %")
    return save(figure, path, entries, columns=1 + len(entries) // (20 * math.ceil(len(shown) / 2)))


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
                color=COLOURS[number],
                marker=_MARKERS[number],
                markersize=4.5,
                linewidth=1.1,
                elinewidth=0.8,
                capsize=1.5,
            )
        axis.set_xlim(-0.02, 1.03)
        axis.set_ylim(-0.02, 1.03)
        axis.set_aspect("equal")
        _titles(axis, name, "reported confidence", "share right")
    return save(figure, path, entries)


def _selection(summary: Mapping[str, Any], path: Path) -> Path | None:
    shown = {name: rows for name, rows in summary["selection"].items() if rows}
    if not shown:
        return None
    figure, axes = panels(len(shown))
    entries: dict[str, Any] = {}
    estimators = list(dict.fromkeys(row["estimator"] for rows in shown.values() for row in rows))
    for axis, (name, rows) in zip(axes, shown.items(), strict=True):
        for number, estimator in enumerate(estimators):
            for normalize, style in (("token", "-"), ("sum", "--")):
                line = [row for row in rows if (row["estimator"], row["normalize"]) == (estimator, normalize)]
                if not line:
                    continue
                weights = [row["mi_weight"] for row in line]
                label = f"{estimator}, {'per token' if normalize == 'token' else 'plain sum'}"
                (entries[label],) = axis.plot(
                    weights,
                    [row["auroc"] for row in line],
                    color=COLOURS[number],
                    linestyle=style,
                    marker=_MARKERS[number],
                    markersize=4,
                    linewidth=1.3,
                )
                if normalize == "token":
                    lows, highs = [row["low"] for row in line], [row["high"] for row in line]
                    axis.fill_between(weights, lows, highs, color=COLOURS[number], alpha=0.12, linewidth=0)
        axis.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        _titles(
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
    entries: dict[str, Any] = {}
    for axis, (name, methods) in zip(axes, shown.items(), strict=True):
        for number, line in enumerate(lines):
            points = [(weight, methods[method]) for weight, method in line.items() if method in methods]
            if not points:
                continue
            entries[_without_weight(next(iter(line.values())))] = axis.errorbar(
                [weight for weight, _ in points],
                [100 * row["accuracy"] for _, row in points],
                yerr=[
                    [100 * (row["accuracy"] - row["low"]) for _, row in points],
                    [100 * (row["high"] - row["accuracy"]) for _, row in points],
                ],
                color=COLOURS[number % len(COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4.5,
                linewidth=1.3,
                elinewidth=0.8,
                capsize=2,
            )
        baseline = summary["comparisons"].get(name, {}).get("baseline")
        if baseline in methods:
            entries[baseline] = axis.axhline(
                100 * methods[baseline]["accuracy"], color="0.35", linewidth=1, linestyle="--"
            )
        _titles(axis, name, "weight λ of the image-free term", "accuracy, %")
    return save(figure, path, entries)


def _sweeps(summary: Mapping[str, Any]) -> list[dict[float, str]]:
    """Return λ → method for every three or more methods with the gate `mi` that differ only in λ."""
    groups: dict[str, dict[float, str]] = {}
    for method, options in (summary.get("methods") or {}).items():
        weight = (options or {}).get("mi_weight")
        if not isinstance(weight, int | float) or _family(method) != "mirl" or options.get("gate") != "mi":
            continue
        rest = {name: value for name, value in options.items() if name != "mi_weight"}
        groups.setdefault(repr(sorted(rest.items())), {}).setdefault(float(weight), method)
    return [dict(sorted(group.items())) for group in groups.values() if len(group) >= 3]


def _titles(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=8.5)
    axis.set_ylabel(y, fontsize=8.5)


def _log_ticks(axis: Axes, values: Sequence[float]) -> None:
    """Make the axis logarithmic, with plain numbers at 1, 2, 5 times powers of ten."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive) / 1.3, max(positive) * 1.3
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axis.set_xticks([s * 10**e for e in exponents for s in (1, 2, 5) if low <= s * 10**e <= high])
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _family(method: str) -> str:
    """Return the family that shares a colour: `sc@16+stop` → `sc+stop`, `mirl(keep=3)` → `mirl`."""
    return re.sub(r"@\d+|\(.*\)", "", method)


def _styles_of(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return method → colour of its family and a marker, unique within the family."""
    families: dict[str, list[str]] = {}
    for method in methods:
        families.setdefault(_family(method), []).append(method)
    return {
        method: (
            COLOURS[number % len(COLOURS)],
            # Families beyond the palette begin at other markers, so that no two methods look the same.
            _MARKERS[(member + number // len(COLOURS) * 5) % len(_MARKERS)],
        )
        for number, members in enumerate(families.values())
        for member, method in enumerate(members)
    }


def _without_weight(method: str) -> str:
    shortened = re.sub(r"mi_weight=[^;)]*;?", "", method).replace(";)", ")")
    return shortened.removesuffix("()")
