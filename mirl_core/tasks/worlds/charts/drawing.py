"""Pictures of charts: 64 x 64 pixels, columns with exact fractional edges, grid lines at 5, 10, 15 and 20."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mirl_core.tasks.worlds.charts.scenes import LARGEST, Column, Scene, Style

IMAGE_SIZE = 64
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
"""Names of the fruits' colours, in the order of `FRUITS`."""
PALETTE = np.array(
    [
        [0.86, 0.14, 0.16],
        [0.96, 0.54, 0.10],
        [0.95, 0.86, 0.16],
        [0.20, 0.66, 0.24],
        [0.18, 0.36, 0.90],
        [0.56, 0.20, 0.70],
    ],
    np.float32,
)
_FONT = {
    "0": ("###", "# #", "# #", "# #", "###"),
    "1": (" # ", "## ", " # ", " # ", "###"),
    "2": ("###", "  #", "###", "#  ", "###"),
    "5": ("###", "#  ", "###", "  #", "###"),
}

Canvas = npt.NDArray[np.float32]


def render(scenes: Sequence[Scene]) -> npt.NDArray[np.uint8]:
    """Draw scenes: [n, 64, 64, 3] uint8 RGB."""
    out = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for i, scene in enumerate(scenes):
        out[i] = _draw(scene)
    return out


def height_of(value: float, style: Style) -> float:
    """Return the upper end of a column with this value, in pixels from the picture's upper edge."""
    return style.bottom - (style.bottom - style.top) * value / LARGEST


def slots(scene: Scene) -> list[tuple[float, float]]:
    """Return the left and right edge of each column, in pixels."""
    style = scene.style
    width = (style.right - style.left) / len(scene.columns)
    side = width * style.gap / 2
    return [
        (style.left + n * width + side, style.left + (n + 1) * width - side)
        for n in range(len(scene.columns))
    ]


def _draw(scene: Scene) -> npt.NDArray[np.uint8]:
    style = scene.style
    canvas: Canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), style.ground, np.float32)
    ink = np.float32(0.95 if style.dark else 0.05)
    for value in range(5, LARGEST + 1, 5):
        y = height_of(value, style)
        _blend(canvas, style.left, style.right, y - 0.5, y + 0.5, ink, style.grid)
    for column, (x0, x1) in zip(scene.columns, slots(scene), strict=True):
        _draw_column(canvas, column, style, x0, x1)
    _blend(canvas, style.left - style.line, style.right, style.bottom, style.bottom + style.line, ink, 0.8)
    _blend(canvas, style.left - style.line, style.left, style.top, style.bottom, ink, 0.8)
    if style.labels:
        for value in (10, 20):
            _write(canvas, str(value), round(height_of(value, style)) - 2, ink)
    if style.blur:
        canvas = _blurred(canvas, style.blur)
    noise = np.random.default_rng(style.noise_seed).standard_normal(canvas.shape, dtype=np.float32)
    canvas = canvas + np.float32(style.noise) * noise
    return np.asarray(np.clip(canvas * 255.0 + 0.5, 0, 255), np.uint8)


def _draw_column(canvas: Canvas, column: Column, style: Style, x0: float, x1: float) -> None:
    paint = np.clip(PALETTE[column.fruit] + np.asarray(column.tint, np.float32), 0.0, 1.0)
    solid = column.value if column.other is None else min(column.value, column.other)
    edge = height_of(solid, style)
    if column.other is not None:
        upper = height_of(max(column.value, column.other), style)
        _blend(canvas, x0, x1, upper, edge, paint, column.opacity)
    _blend(canvas, x0, x1, edge, style.bottom, paint, 1.0)
    if style.outline:
        for a, b in ((x0, x0 + 1), (x1 - 1, x1)):
            _blend(canvas, a, b, edge, style.bottom, np.float32(0.0), style.outline)
        _blend(canvas, x0, x1, edge, edge + 1, np.float32(0.0), style.outline)


def _blend(
    canvas: Canvas,
    x0: float,
    x1: float,
    y0: float,
    y1: float,
    paint: npt.NDArray[np.float32] | np.float32,
    opacity: float,
) -> None:
    """Paint a rectangle; `opacity` counts in proportion to the covered share of a pixel."""
    across, columns = _cover(x0, x1)
    down, rows = _cover(y0, y1)
    patch = canvas[rows, columns]
    cover = (np.float32(opacity) * down[:, None] * across[None, :])[:, :, None]
    patch += cover * (paint - patch)


def _cover(start: float, end: float) -> tuple[npt.NDArray[np.float32], slice]:
    """Return the share of each pixel between two positions, 0 to 1, and the slice of these pixels."""
    first, last = max(0, math.floor(start)), min(IMAGE_SIZE, math.ceil(end))
    pixels = np.arange(first, max(first, last), dtype=np.float32)
    covered = np.minimum(pixels + 1, end) - np.maximum(pixels, start)
    return np.clip(covered, 0.0, 1.0).astype(np.float32), slice(first, max(first, last))


def _write(canvas: Canvas, word: str, y: int, ink: np.float32) -> None:
    """Write a number in 3 x 5 pixel digits at the left edge, with its upper edge at row `y`."""
    for n, letter in enumerate(word):
        for dy, row in enumerate(_FONT[letter]):
            for dx, dot in enumerate(row):
                if dot == "#" and 0 <= y + dy < IMAGE_SIZE:
                    canvas[y + dy, 4 * n + dx] += np.float32(0.75) * (ink - canvas[y + dy, 4 * n + dx])


def _blurred(canvas: Canvas, strength: float) -> Canvas:
    """Mix each pixel with its two neighbours, axis by axis; at strength 1 a neighbour has weight 1/4."""
    side = np.float32(strength / (2 * strength + 2))
    for axis in (0, 1):
        padded = np.pad(canvas, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        canvas = (1 - 2 * side) * canvas + side * (before + after)
    return canvas
