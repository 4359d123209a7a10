"""Pictures as URLs: the bytes as they are, smaller copies where a bound is set, errors in words."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mirl_client import Picture, PictureError, picture_url
from mirl_client.pictures import bounded_size, media_type
from tests.unit.server.harness import data_url, png


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_files_bytes_and_urls_go_out_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a picture.png"
    file.write_bytes(png())
    sources: list[Picture] = [file, str(file), png(), bytearray(png()), io.BytesIO(png()), data_url()]
    assert {picture_url(source) for source in sources} == {data_url()}
    assert picture_url("https://host/a.png?x=1") == "https://host/a.png?x=1"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_servers_formats_are_known_by_their_bytes(kind: str) -> None:
    data = saved(Image.new("RGB", (3, 2), "red"), kind)
    assert media_type(data) == f"image/{kind.lower()}"
    assert picture_url(data).startswith(f"data:image/{kind.lower()};base64,")


def test_another_format_becomes_a_png() -> None:
    url = picture_url(saved(Image.new("RGB", (3, 2), "red"), "TIFF"))
    assert url.startswith("data:image/png;")
    assert decoded(url).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_arrays_and_pil_images_keep_their_pixels() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for source in (pixels, Image.fromarray(pixels)):
        assert np.array_equal(np.asarray(decoded(picture_url(source))), pixels)
    grey = pixels[:, :, :1]
    assert np.array_equal(np.asarray(decoded(picture_url(grey))), grey[:, :, 0])


@given(
    size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    max_pixels=st.none() | st.integers(1, 10**6),
    max_side=st.none() | st.integers(1, 3000),
)
@example(size=(20_000, 1), max_pixels=3, max_side=None)
@settings(max_examples=80)
def test_a_bounded_size_is_within_the_bounds_and_keeps_the_shape(
    size: tuple[int, int], max_pixels: int | None, max_side: int | None
) -> None:
    width, height = bounded_size(size, max_pixels, max_side)
    assert 1 <= width <= size[0]
    assert 1 <= height <= size[1]
    assert max_pixels is None or width * height <= max_pixels
    assert max_side is None or max(width, height) <= max_side
    # Rounding moves a side by less than a pixel, but where a side can't be less than 1.
    if min(width, height) > 1:
        assert (width + 1) * size[1] > height * size[0]
        assert (height + 1) * size[0] > width * size[1]
    if (max_side is None or max(size) <= max_side) and (
        max_pixels is None or size[0] * size[1] <= max_pixels
    ):
        assert (width, height) == size


def test_a_larger_picture_is_scaled_down_and_a_smaller_picture_is_not() -> None:
    large = saved(Image.new("RGB", (80, 40), "red"), "JPEG")
    url = picture_url(large, max_side=20)
    assert url.startswith("data:image/jpeg;")
    assert decoded(url).size == (20, 10)
    assert decoded(picture_url(large, max_pixels=800)).size == (40, 20)
    assert picture_url(png(), max_side=4, max_pixels=16) == data_url()
    assert decoded(picture_url(data_url(size=(9, 9)), max_side=3)).size == (3, 3)
    palette = saved(Image.new("P", (8, 8)), "GIF")
    assert decoded(picture_url(palette, max_side=4)).mode == "RGB"


def test_a_smaller_copy_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif.tobytes())
    assert decoded(picture_url(turned, max_side=10)).size == (5, 10)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/a.png", "/nowhere/a.png: No such file"),
        (b"no picture", "not a picture that Pillow reads"),
        (png()[:40], "not a picture"),
        (io.StringIO("x"), "binary mode"),
        (7, "type int"),
        (np.zeros((2, 2)), "uint8"),
        (np.zeros((2, 2, 2), np.uint8), "channels"),
        (np.zeros((0, 2), np.uint8), "no pixels"),
        ("data:image/png;base64,?", "base64"),
        ("data:image/png", "comma"),
        ("https://host/a.png", "can't scale it down"),
        ("a\0b", "not a path"),
    ],
)
def test_what_is_no_picture_is_an_error_in_words(source: Picture, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        picture_url(source, max_side=100)


def test_a_bound_below_one_pixel_is_an_error() -> None:
    with pytest.raises(PictureError, match="the bound is 0"):
        picture_url(png(), max_side=0)


def test_without_pillow_files_go_out_and_bounds_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    file, url = png(), data_url()
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    assert picture_url(file) == url
    with pytest.raises(PictureError, match=r"pip install 'mirl-client\[pictures\]'"):
        picture_url(file, max_side=2)
