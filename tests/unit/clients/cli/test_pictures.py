"""Half-blocks: each cell has the colours of two pixels; only terminals with colours show them."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from rich.console import Console

from mirl_client.cli.pictures import half_blocks, shows_pictures
from mirl_core.bundled import CHARTS

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def drawn(image: Image.Image, columns: int = 48) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80, no_color=False
    )
    console.print(half_blocks(image, columns))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def square(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.convert(mode)


def test_two_pixels_share_a_cell() -> None:
    left, right = "\x1b[38;2;255;0;0;48;2;0;0;255m▀", "\x1b[38;2;0;255;0;48;2;255;255;255m▀"
    assert drawn(square()) == f"{left}\x1b[0m{right}\x1b[0m\n"


def test_any_mode_is_drawn_in_its_colours() -> None:
    assert drawn(square("RGBA")) == drawn(square())
    grey = Image.new("L", (1, 2), 128)
    assert drawn(grey) == "\x1b[38;2;128;128;128;48;2;128;128;128m▀\x1b[0m\n"


@pytest.mark.parametrize(
    ("size", "columns", "cells"),
    [
        ((64, 64), 48, (48, 24)),
        ((640, 320), 48, (48, 12)),
        ((4, 3), 48, (4, 2)),
        ((300, 1), 48, (48, 1)),
        ((64, 64), 20, (20, 10)),
    ],
)
def test_pictures_are_scaled_down_to_the_columns_and_keep_their_shape(
    size: tuple[int, int], columns: int, cells: tuple[int, int]
) -> None:
    shown = half_blocks(Image.new("RGB", size), columns).plain.split("\n")
    assert ({len(line) for line in shown}, len(shown)) == ({cells[0]}, cells[1])


def test_a_bundled_picture_keeps_its_colours_when_it_is_scaled() -> None:
    with Image.open(CHARTS.questions()[1].file) as image:
        text = half_blocks(image, 48)
    colors = {
        span.style.color.triplet
        for span in text.spans
        if not isinstance(span.style, str) and span.style.color
    }
    assert any(
        color is not None and color.red > 200 and max(color.green, color.blue) < 90 for color in colors
    )


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"force_terminal": True, "color_system": "truecolor", "no_color": False}, True),
        ({"force_terminal": True, "color_system": "truecolor", "no_color": True}, False),
        ({"force_terminal": True, "color_system": None, "no_color": False}, False),
        ({"force_terminal": False, "color_system": "truecolor", "no_color": False}, False),
    ],
)
def test_pictures_need_a_terminal_with_colours(options: dict[str, object], shown: bool) -> None:
    assert shows_pictures(Console(file=io.StringIO(), **options)) is shown  # type: ignore[arg-type]
