"""Figures of the reports: panels with one legend, in colours that colour-blind readers can tell apart.

A method has the same colour in every figure of every run, with any other methods beside it (`method_colour`).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from PIL.Image import Image

__all__ = [
    "COLOURS",
    "METHOD_COLOURS",
    "legend",
    "method_colour",
    "method_styles",
    "panels",
    "picture_grid",
    "save",
    "titles",
]

# Okabe & Ito's palette, without its yellow, which is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
# Okabe & Ito's colours go to the methods that reports show most. The others are far from those and from each
# other for eyes of all kinds; markers and labels tell the nearest apart.
METHOD_COLOURS: Mapping[str, str] = {
    "direct": "#595959",
    "greedy": "#000000",
    "sc": "#0072B2",
    "adaptive": "#56B4E9",
    "esc": "#110099",
    "deepconf": "#33BBCC",
    "mirl": "#D55E00",
    "gate": "#E69F00",
    "paper": "#880077",
    "waves": "#CC79A7",
    "steered": "#009E73",
    "triple": "#88BB66",
    "fast": "#555533",
    "confidence": "#8800FF",
    "random": "#BB5533",
    "none": "#443300",
    "auto": "#9966FF",
    "oracle": "#EE7744",
}
"""Colour by the first word of a method's name: `sc` is that of `sc@16+stop`, `auto` that of `auto-prior`."""
_OTHER_METHODS = ("#FF8899", "#1155BB", "#000044", "#112244")
_PALETTE = (*METHOD_COLOURS.values(), *_OTHER_METHODS)
_MARKERS = "osD^vP*X<>hp"


def method_colour(method: str) -> str:
    """Return the method's colour, `#RRGGBB`, whatever its `@K`, `+stop` and options.

    Names that `METHOD_COLOURS` lacks get one of four other colours by a checksum of their first word.
    """
    word = _first_word(method)
    if word in METHOD_COLOURS:
        return METHOD_COLOURS[word]
    return _OTHER_METHODS[zlib.crc32(word.encode()) % len(_OTHER_METHODS)]


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return method → colour and marker; methods of one colour have different markers, up to twelve."""
    styles: dict[str, tuple[str, str]] = {}
    members: dict[str, int] = {}
    for method in dict.fromkeys(methods):
        colour = method_colour(method)
        # Each colour begins at another marker, so that colours that look alike have different ones.
        number = _PALETTE.index(colour) + members.get(colour, 0)
        members[colour] = members.get(colour, 0) + 1
        styles[method] = (colour, _MARKERS[number % len(_MARKERS)])
    return styles


def _first_word(method: str) -> str:
    match = re.match(r"[^-@+(]+", method)
    return match[0] if match else method


def panels(
    count: int, width: float = 4.6, height: float = 3.5, columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, `width` × `height` inches each.

    Args:
        columns: panels in a row; None: two, or three where that fills the rows.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(count, columns or (3 if count % 3 == 0 else 2))
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


def titles(axis: Axes, title: str, x: str, y: str) -> None:
    """Set the texts of a panel."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=8.5)
    axis.set_ylabel(y, fontsize=8.5)


def legend(figure: Figure, entries: Mapping[str, Any], columns: int = 1) -> Legend:
    """Add one legend for all panels, beside them where it has many entries.

    Args:
        entries: label → the artist that the legend shows.
        columns: of a legend beside the panels.
    """
    aside = len(entries) > 6
    # A character of 8 points is about 5 wide; a marker and the gap between columns take some 8 characters.
    room = int(figure.get_figwidth() * 72 / 5 / (8 + max(map(len, entries))))
    return figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside right upper" if aside else "outside lower center",
        ncols=columns if aside else max(1, min(len(entries), 4, room)),
        fontsize=8,
        frameon=False,
    )


def save(figure: Figure, path: Path, entries: Mapping[str, Any] | None = None) -> Path:
    """Write the figure to `path`, with the `entries` in a `legend`."""
    import matplotlib.pyplot as plt

    if entries:
        legend(figure, entries)
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
