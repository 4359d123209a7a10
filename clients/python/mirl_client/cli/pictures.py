"""A picture in half-blocks: a cell of the terminal shows two pixels, one above the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 48
"""Width of a picture in the terminal, at most."""


def shows_pictures(console: Console) -> bool:
    """Return whether the console is a terminal with colours."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def display_path(path: Path) -> str:
    """Return a path relative to the working directory, where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def half_blocks(image: Image.Image, columns: int) -> Text:
    """Return an image as lines of `▀`: the foreground is the upper pixel, the background the lower one.

    Args:
        columns: most cells of a line; a wider image is scaled down, a narrower one stays as it is.
    """
    width = min(columns, image.width)
    # An even height: the last line has a lower pixel too.
    height = 2 * max(1, round(image.height * width / image.width / 2))
    pixels = image.convert("RGB")
    if pixels.size != (width, height):
        from PIL import Image

        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
    return Text("\n").join(_line(pixels, row) for row in range(0, height, 2))


def _line(pixels: Image.Image, row: int) -> Text:
    line = Text()
    for column in range(pixels.width):
        upper, lower = (_color(pixels.getpixel((column, row + below))) for below in (0, 1))
        line.append("▀", Style(color=upper, bgcolor=lower))
    return line


def _color(pixel: object) -> Color:
    assert isinstance(pixel, tuple), "an RGB image has three values a pixel"
    return Color.from_rgb(*pixel)
