"""A file's outline: formats by their first bytes, and the exact bounds on what may stand in a file."""

from __future__ import annotations

import base64
import struct

import pytest
from PIL import Image

from mirl_core.config import Limits
from mirl_core.errors import ImageError, RequestTooLargeError
from mirl_server.media import structure
from mirl_server.media.decoding import ImageBudget, check_bytes, decode_bytes
from mirl_server.media.images import Images, check_processing, is_remote
from mirl_server.media.structure import UnreasonableError, media_type, passes
from tests.hostile.images import bmp, encoded, many_scans
from tests.unit.server.harness import png
from tests.unit.server.media.origin import HOST, answer, origin, web

WHERE = "messages[0].content[1]"
SCAN = b"\xff\xda\x00\x02"
APP = b"\xff\xe1\x00\x02"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\x89PNG\r\n\x1a", None),
        (b"\xff\xd8\xff", "image/jpeg"), (b"\xff\xd8", None),
        (b"RIFF1234WEBP", "image/webp"), (b"RIFF1234WEBPVP8 ", "image/webp"), (b"RIFF1234WAVE", None),
        (b"RIFX1234WEBP", None), (b"1234RIFFWEBP", None),
        (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"), (b"GIF88a", None),
        (b"BM", "image/bmp"), (b"B", None), (b"", None), (b"II*\x00", None),
    ],
)  # fmt: skip
def test_a_type_by_its_first_bytes(head: bytes, kind: str | None) -> None:
    assert media_type(head) == kind


@pytest.mark.parametrize("compression", [1, 2])
def test_run_length_bitmaps_are_refused(compression: int) -> None:
    raw = bmp(4, 4, compression, b"\x01" * 257, bits=8 // compression)
    with pytest.raises(UnreasonableError, match=r"^run-length encoded$"):
        passes(raw, "image/bmp")
    with pytest.raises(ImageError, match="too intricate"):
        decode_bytes(raw, WHERE, ImageBudget.of(Limits()))


@pytest.mark.parametrize("compression", [0, 3])
def test_other_bitmaps_pass(compression: int) -> None:
    assert passes(bmp(4, 4, compression, b""), "image/bmp") == 1
    # The check is of bitmaps alone, and a file may end before the field.
    assert passes(bmp(4, 4, 1, b""), "image/webp") == 1
    assert passes(bmp(4, 4, 1, b"")[:30], "image/bmp") == 1


def test_an_old_bitmap_has_no_compression_field() -> None:
    """OS/2's header is 12 bytes: what stands where others tell the compression is palette."""
    old = bytearray(bmp(4, 4, 1, b""))
    old[14] = 12
    assert passes(bytes(old), "image/bmp") == 1


@pytest.mark.parametrize(
    ("raw", "scans"),
    [
        (b"\xff\xd8" + SCAN, 1),
        (b"\xff\xd8" + APP + SCAN + b"picture\xff\x00\xff\xd0" + SCAN + b"\xff\xd9" + SCAN, 2),
        # Nothing counts behind the end of the picture.
        (b"\xff\xd8" + SCAN + b"\xff\xd9\x00\x02" + SCAN, 1),
        # A segment's length skips what looks like a marker in it.
        (b"\xff\xd8\xff\xe1\x00\x06\xff\xda\x00\x02" + SCAN, 1),
        (b"\xff\xd8" + SCAN + b"\xff\xe1\x00\x01" + SCAN, 1),
        (b"\xff\xd8" + APP * 1000 + SCAN, 1),
        (b"\xff\xd8" + APP * 1000 + SCAN + APP * 8 + SCAN + APP * 8, 2),
        (b"\xff\xd8" + bytes(2**16) + SCAN + bytes(2**17) + SCAN, 2),
        (b"\xff\xd8" + b"\xff\x01\xff\xd8" + SCAN, 1),
    ],
)
def test_scans_are_counted_as_a_decoder_finds_them(raw: bytes, scans: int) -> None:
    assert passes(raw, "image/jpeg") == scans


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\xff\xd8" + APP * 1001 + SCAN, "segments"),
        (b"\xff\xd8" + APP * 1000 + SCAN + APP * 9, "segments"),
        (b"\xff\xd8" + bytes(2**16 + 1) + SCAN, "junk"),
        (b"\xff\xd8" + bytes(2**15) + APP + bytes(2**15 + 1) + SCAN, "junk"),
    ],
)
def test_jpegs_that_no_camera_makes(raw: bytes, why: str) -> None:
    with pytest.raises(UnreasonableError, match=f"^{why}$"):
        passes(raw, "image/jpeg")


@pytest.mark.parametrize("raw", [b"\xff\xd8", b"\xff\xd8" + APP, b"\xff\xd8\xff\xd9" + SCAN])
def test_a_jpeg_without_a_scan_is_damaged(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^no picture$") as caught:
        passes(raw, "image/jpeg")
    assert not isinstance(caught.value, UnreasonableError)


def test_a_png_has_a_most_of_chunks() -> None:
    chunk, end = struct.pack(">I4sI", 0, b"tEXt", 0), b"\x00\x00\x00\x00IEND"
    head = b"\x89PNG\r\n\x1a\n"
    assert passes(head + chunk * 19_999 + end, "image/png") == 1
    assert passes(head + chunk * 19_999 + end[:7], "image/png") == 1
    # A chunk counts from its head on, and nothing counts behind the end.
    for many in (chunk * 20_000 + end, chunk * 19_999 + chunk[:8]):
        with pytest.raises(UnreasonableError, match=r"^chunks$"):
            passes(head + many, "image/png")
    assert passes(head + end + b"\xae\x42\x60\x82" + chunk * 20_000, "image/png") == 1
    # A chunk's length counts: what it holds is no chunk.
    filled = struct.pack(">I4s", 12 * 30_000, b"tEXt") + chunk * 30_000 + bytes(4)
    assert passes(head + filled + end, "image/png") == 1


@pytest.mark.parametrize(("flags", "start"), [(0x00, 13), (0x77, 13), (0x80, 13 + 6), (0x87, 13 + 768)])
def test_a_gif_has_a_longest_preface(monkeypatch: pytest.MonkeyPatch, flags: int, start: int) -> None:
    assert structure.MAX_PREFACE == 2**18
    # Fewer bytes than that are walked faster.
    monkeypatch.setattr(structure, "MAX_PREFACE", 1000)
    head = (b"GIF89a" + bytes(4) + bytes([flags])).ljust(start, b"," if flags & 0x80 else b"\x00")
    comment = b"!\xfe" + b"\xff" + b"," * 255 + b"\x00"
    blank = b"\x01"
    for most in (comment * 3 + blank * (1000 - 3 * 259), blank * 1000):
        assert passes(head + most + b",", "image/gif") == 1
        with pytest.raises(UnreasonableError, match=r"^preface$"):
            passes(head + most + blank + b",", "image/gif")
    with pytest.raises(UnreasonableError, match=r"^preface$"):
        passes(head + b"!\xfe" + (b"\xff" + b"," * 255) * 2000, "image/gif")
    # A frame, or the end, ends the preface.
    for first in (b",", b";"):
        assert passes(head + first + blank * 2000, "image/gif") == 1
    # A file may end anywhere: in its header, between blocks and inside a comment.
    for cut in (b"GIF89a", b"GIF89a1234", head, head + blank * 1000, head + b"!\xfe", head + b"!\xfe\x03a"):
        assert passes(cut, "image/gif") == 1


def test_scans_cost_as_many_pictures() -> None:
    """Sixteen passes over the largest picture allowed, and no more."""
    raw = many_scans(0)
    scans, pixels = passes(raw, "image/jpeg"), 1500 * 1500
    assert passes(many_scans(6), "image/jpeg") == scans + 6
    at_most = many_scans(16 - scans)
    assert decode_bytes(at_most, WHERE, ImageBudget.of(Limits(max_image_pixels=pixels))).size == (1500, 1500)
    with pytest.raises(ImageError) as caught:
        decode_bytes(many_scans(17 - scans), WHERE, ImageBudget.of(Limits(max_image_pixels=pixels)))
    assert caught.value.message == (
        "the image's file is too intricate to open; save it anew, not progressive and without metadata"
    )
    assert (caught.value.param, str(caught.value.__cause__)) == (WHERE, "scans")


async def test_what_is_fetched_is_counted_once() -> None:
    """By the fetch's own count while bytes come, and by the request's where they are decoded."""
    near, far = png("blue"), [png("red"), png("green")]
    local = "data:image/png;base64," + base64.b64encode(near).decode()
    urls = [(f"http://{HOST}/{name}", f"part {name}") for name in "ab"]
    together = len(near) + sum(map(len, far))
    async with origin(a=answer(far[0]), b=answer(far[1])) as served:
        fetcher = web(served).fetcher
        limits = Limits(max_total_image_bytes=together, max_total_image_pixels=3 * 16)
        assert len(await Images(limits, fetcher).decode([(local, WHERE), *urls])) == 3
        inlined = await Images(Limits(max_total_image_bytes=together - len(near)), fetcher).inline(urls)
        assert [base64.b64decode(url.split(",")[1]) for url in inlined] == far
        for short in (
            Limits(max_total_image_bytes=together - 1),
            Limits(max_total_image_pixels=3 * 16 - 1),
        ):
            with pytest.raises(RequestTooLargeError, match="together"):
                await Images(short, fetcher).decode([(local, WHERE), *urls])


def test_a_file_that_is_only_checked_counts_too() -> None:
    raw = encoded("PNG", Image.new("RGB", (20, 10)))
    room = ImageBudget.of(Limits(max_total_image_bytes=2 * len(raw), max_total_image_pixels=400))
    for _ in range(2):
        assert check_bytes(raw, WHERE, room) == "image/png"
    assert (room.bytes, room.pixels) == (0, 0)
    with pytest.raises(RequestTooLargeError, match="together") as caught:
        check_bytes(raw, WHERE, room)
    assert caught.value.param == WHERE


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"max_pixels": 100}, True), ({"max_pixels": 101}, False), ({"max_pixels": 100.5}, False),
        ({"height": 10, "width": 10}, True), ({"height": 10, "width": 11}, False),
        ({"height": 11, "width": "11"}, True), ({"height": None, "width": 11}, True),
        ([{"a": [{"b": 101}]}], False), ({"a": [1, {"b": 100}]}, True), (101, True), (None, True),
    ],
)  # fmt: skip
def test_how_far_a_picture_may_be_blown_up(arguments: object, allowed: bool) -> None:
    limits = Limits(max_image_pixels=100)
    if allowed:
        check_processing(arguments, limits)
        return
    with pytest.raises(RequestTooLargeError, match="more than 100 pixels") as caught:
        check_processing(arguments, limits)
    assert caught.value.param == "mm_processor_kwargs"


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("http://a", True),
        ("HTTPS://a", True),
        ("httpx://a", True),
        ("data:,", False),
        ("htt", False),
        ("", False),
    ],
)
def test_which_urls_are_fetched(url: str, remote: bool) -> None:
    assert is_remote(url) is remote
