"""Figures of the reports: panels with one legend, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["COLOURS", "panels", "picture_grid", "save"]

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


def picture_grid(
    pictures: Sequence[Image], file: Path, columns: int = 8, rows: int = 3, zoom: int = 2
) -> None:
    """Write the first 64 × 64 pictures, in their order, as one PNG."""
    import numpy as np
    from PIL import Image as Images

    shown = [np.asarray(picture) for picture in pictures[: columns * rows]]
    gap = np.full((64, 2, 3), 255, np.uint8)
    lines = []
    for r in range(rows):
        row = shown[r * columns : (r + 1) * columns]
        lines.append(np.concatenate([x for p in row for x in (p, gap)][:-1], axis=1))
        lines.append(np.full((2, lines[0].shape[1], 3), 255, np.uint8))
    grid = Images.fromarray(np.concatenate(lines[:-1]))
    # Pixel noise does not compress: a palette keeps the file small.
    large = grid.quantize(200).resize((grid.width * zoom, grid.height * zoom), Images.Resampling.NEAREST)
    large.save(file, optimize=True)
