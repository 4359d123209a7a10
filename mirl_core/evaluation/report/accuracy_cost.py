"""The plot of accuracy over cost: methods as labelled points, with the frontier of the non-dominated."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.tasks.plotting import legend, method_styles, panels, save, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path as Line
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

__all__ = ["draw", "frontier"]

Rows = Mapping[str, Mapping[str, Any]]
"""Method → its figures."""

_FRONTIER = "frontier: nothing cheaper is as accurate"
_DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
_DISTANCES = (6, 10, 16, 24)
"""Points between a method's marker and its label."""
_NEAR = 10
"""Points from which on a line leads from the label to the marker."""
_BAR = 3
"""Points of distance that a label may be farther off, rather than across an error bar."""
_MARKER = 14.0
"""Pixels that a marker takes, with its edge."""
_MOST_ROWS = 4
"""Panels that stand below each other, as wide as a page."""
_LONGEST_LINE = 20
"""Characters of a label beyond which its options go below each other."""


def draw(summary: Mapping[str, Any], path: Path, hidden: Collection[str] = ()) -> Path | None:
    """Write the plot, a panel for each data set; None where there is no method to show.

    Labels stand at the points. Methods whose label has no free spot in some panel are in the legend.

    Args:
        hidden: methods that are left out.
    """
    shown = {
        name: {method: row for method, row in methods.items() if method not in hidden}
        for name, methods in summary["data"].items()
    }
    shown = {name: methods for name, methods in shown.items() if methods}
    if not shown:
        return None
    figure, axes = panels(len(shown), width=7.6, height=4.2, columns=1 if len(shown) <= _MOST_ROWS else 2)
    styles = method_styles(method for methods in shown.values() for method in methods)
    costs = [row["tokens"] for methods in shown.values() for row in methods.values()]
    entries: dict[str, Any] = {}
    for axis, (name, methods) in zip(axes, shown.items(), strict=True):
        for method, row in methods.items():
            entries[method] = _point(axis, row, *styles[method])
        _lines(axis, methods, {method: colour for method, (colour, _) in styles.items()})
        entries[_FRONTIER] = _frontier(axis, methods)
        _costs(axis, costs)
        n = next(iter(methods.values()))["n"]
        words = "cost: tokens a question, generated and scored" + (", log scale" if _decades(costs) else "")
        titles(axis, f"{name} (n = {n})", words, "accuracy: right answers, %")
    rows = len({axis.get_position().y0 for axis in axes})
    listed: set[str] = {_FRONTIER}
    while True:
        key = {label: artist for label, artist in entries.items() if label in listed}
        shown_legend = legend(figure, key, 1 + len(key) // (20 * rows))
        # Labels must not collide on the canvas, and the legend takes its part of it.
        figure.draw_without_rendering()
        labels: list[Annotation] = []
        crowded: set[str] = set()
        for axis, methods in zip(axes, shown.values(), strict=True):
            written, left = _label(axis, methods)
            labels += written
            crowded |= left
        if crowded <= listed:
            # The labels fit this layout.
            figure.set_layout_engine("none")
            return save(figure, path)
        listed |= crowded
        for artist in (*labels, shown_legend):
            artist.remove()


def frontier(methods: Rows) -> list[str]:
    """Return the methods that no cheaper or equally cheap one reaches in accuracy, the cheapest first.

    Oracles are bounds, not methods, and left out.
    """
    best, kept = -math.inf, []
    for method, row in sorted(methods.items(), key=lambda item: (item[1]["tokens"], -item[1]["accuracy"])):
        if row["accuracy"] > best and not method.startswith("oracle"):
            best = row["accuracy"]
            kept.append(method)
    return kept


def _point(axis: Axes, row: Mapping[str, Any], colour: str, marker: str) -> Any:
    accuracy = 100 * row["accuracy"]
    axis.errorbar(
        row["tokens"],
        accuracy,
        yerr=[[accuracy - 100 * row["low"]], [100 * row["high"] - accuracy]],
        color=colour,
        alpha=0.3,
        elinewidth=0.9,
        linestyle="none",
        zorder=2,
    )
    (point,) = axis.plot(
        row["tokens"],
        accuracy,
        color=colour,
        marker=marker,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="none",
        zorder=4,
    )
    return point


def _lines(axis: Axes, methods: Rows, colours: Mapping[str, str]) -> None:
    """Connect methods that differ in K alone."""
    families: dict[str, list[str]] = {}
    for method in methods:
        if "@" in method:
            families.setdefault(re.sub(r"@\d+", "", method), []).append(method)
    for family in families.values():
        line = sorted((methods[method]["tokens"], 100 * methods[method]["accuracy"]) for method in family)
        axis.plot(*zip(*line, strict=True), color=colours[family[0]], linewidth=0.9, alpha=0.5, zorder=2)


def _frontier(axis: Axes, methods: Rows) -> Any:
    line = [(methods[method]["tokens"], 100 * methods[method]["accuracy"]) for method in frontier(methods)]
    (drawn,) = axis.plot(
        *(zip(*line, strict=True) if line else ((), ())),
        color="0.45",
        linewidth=1.1,
        linestyle="--",
        drawstyle="steps-post",
        zorder=3,
    )
    return drawn


def _decades(costs: Sequence[float]) -> bool:
    """Return whether the costs span more than one power of ten."""
    return min(costs) > 0 and max(costs) > 10 * min(costs)


def _costs(axis: Axes, costs: Sequence[float]) -> None:
    """Give the axis the range of all panels' costs; over decades on a log scale, plain numbers at 1, 2, 5."""
    if not _decades(costs):
        margin = 0.12 * (max(costs) - min(costs)) or max(1.0, 0.1 * max(costs))
        axis.set_xlim(min(costs) - margin, max(costs) + margin)
        return
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    low, high = min(costs) / 1.35, max(costs) * 1.35
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axis.set_xticks([s * 10**e for e in exponents for s in (1, 2, 5) if low <= s * 10**e <= high])
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _label(axis: Axes, methods: Rows) -> tuple[list[Annotation], set[str]]:
    """Write the labels that have a free spot; return what is drawn, and the methods without one."""
    best = frontier(methods)
    at = {method: (row["tokens"], 100 * row["accuracy"]) for method, row in methods.items()}
    obstacles = [
        _box(tuple(axis.transData.transform(point)), (_MARKER, _MARKER), (0, 0)) for point in at.values()
    ]
    for low, high in itertools.pairwise(best):
        corner = (at[high][0], at[low][1])
        obstacles += [_between(axis, at[low], corner), _between(axis, corner, at[high])]
    bars = [
        _between(axis, (row["tokens"], 100 * row["low"]), (row["tokens"], 100 * row["high"]))
        for row in methods.values()
    ]
    spots: list[_Spot] = []
    drawn: list[Annotation] = []
    crowded: set[str] = set()
    for method in (*best, *(method for method in methods if method not in best)):
        label = axis.annotate(
            method.replace(";", ";\n") if len(method) > _LONGEST_LINE else method,
            at[method],
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if method in best else "normal",
            zorder=5,
        )
        label.set_in_layout(False)
        free = [spot for spot in _spots(axis, label) if spot.free(axis.bbox, obstacles, spots)]
        if not free:
            crowded.add(method)
            label.remove()
            continue
        chosen = min(free, key=lambda spot: spot.distance + _BAR * sum(map(spot.box.overlaps, bars)))
        spots.append(chosen)
        drawn += chosen.put(axis, label)
    return drawn, crowded


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a label may stand."""

    direction: tuple[int, int]
    """From the marker: right 1, left -1; up 1, down -1."""
    distance: float
    """Points from the marker's centre."""
    box: Bbox
    """Of the text, pixels."""
    line: Line | None
    """From the marker to the text, pixels; None: they are near each other."""

    def free(self, panel: Bbox, obstacles: Sequence[Bbox], others: Sequence[_Spot]) -> bool:
        """Return whether text and line are within the panel and hide nothing."""
        return (
            panel.contains(self.box.x0, self.box.y0)
            and panel.contains(self.box.x1, self.box.y1)
            and not any(map(self.box.overlaps, obstacles))
            and not any(map(self.box.overlaps, (other.box for other in others)))
            and not any(other.line.intersects_bbox(self.box) for other in others if other.line)
            and not (self.line and any(self.line.intersects_bbox(other.box) for other in others))
        )

    def put(self, axis: Axes, label: Annotation) -> list[Annotation]:
        """Move the label here; return it and, if it has one, the line to its marker."""
        right, up = self.direction
        offset = (self.distance * right, self.distance * up)
        label.set_position(offset)
        label.set_horizontalalignment(("right", "center", "left")[right + 1])
        label.set_verticalalignment(("top", "center", "bottom")[up + 1])
        if self.line is None:
            return [label]
        line = axis.annotate(
            "",
            label.xy,
            xytext=offset,
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
            zorder=3,
        )
        line.set_in_layout(False)
        return [label, line]


def _spots(axis: Axes, label: Annotation) -> Iterator[_Spot]:
    """Yield the spots around the label's point, free or not."""
    from matplotlib.path import Path as Line
    from matplotlib.text import Text

    size = Text.get_window_extent(label).size
    x, y = axis.transData.transform(label.xy)
    for distance in _DISTANCES:
        shift = distance * axis.figure.dpi / 72
        for right, up in _DIRECTIONS:
            end = (x + shift * right, y + shift * up)
            line = Line([(x, y), end]) if distance > _NEAR else None
            yield _Spot((right, up), distance, _box(end, size, (right, up)), line)


def _box(anchor: Sequence[float], size: Sequence[float], direction: tuple[int, int]) -> Bbox:
    """Return a box in pixels beside its anchor, towards `direction`; centred on an axis where that is 0."""
    from matplotlib.transforms import Bbox

    low = [start + (way - 1) / 2 * length for start, length, way in zip(anchor, size, direction, strict=True)]
    return Bbox.from_bounds(*low, *size)


def _between(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> Bbox:
    """Return the box, pixels, of a horizontal or vertical line between two points of the data."""
    from matplotlib.transforms import Bbox

    (x0, y0), (x1, y1) = axis.transData.transform((start, end))
    return Bbox.from_extents(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
