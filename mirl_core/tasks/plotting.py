"""Figures of the reports: panels with one legend, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "panels", "save"]

# Okabe & Ito's palette, without its yellow, which is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")


def panels(count: int, width: float = 4.6, height: float = 3.5) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels in rows of two, or of three where that fills the rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(count, 3 if count % 3 == 0 else 2)
    rows = math.ceil(count / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    for axis in axes[:count]:
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes[:count]


def save(figure: Figure, path: Path, entries: Mapping[str, Any], columns: int = 1) -> Path:
    """Write the figure to `path` with one legend for all panels, beside them where it has many entries.

    Args:
        entries: label → the artist that the legend shows.
        columns: of a legend beside the panels.
    """
    import matplotlib.pyplot as plt

    if entries:
        aside = len(entries) > 6
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside right upper" if aside else "outside lower center",
            ncols=columns if aside else min(len(entries), 4),
            fontsize=8,
            frameon=False,
        )
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
