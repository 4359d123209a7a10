"""Whatever is sent ends as an upright RGB image, or as an error that names the part at fault."""

import base64
import contextlib
import io
import random
import zlib

import pytest
from PIL import Image

from mirl_core.config import Limits
from mirl_core.errors import ConfigError, ImageError, RequestTooLargeError
from mirl_server.media.decoding import ImageBudget, decode_url, read_references
from mirl_server.media.images import Images

WHERE = "messages[0].content[1]"


def encoded(image: Image.Image, format_: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **how)
    return buffer.getvalue()


def url(raw: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def decode(given: str, limits: Limits | None = None) -> Image.Image:
    return decode_url(given, WHERE, ImageBudget.of(limits or Limits()))


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_that_users_send(format_: str) -> None:
    raw = encoded(Image.new("RGB", (9, 5), "red"), format_)
    image = decode(url(raw, f"image/{format_.lower()}"))
    assert (image.mode, image.size) == ("RGB", (9, 5))
    red, green, blue = image.getpixel((4, 2))
    assert red > 240
    assert green < 20
    assert blue < 20


def test_declared_type_may_differ_from_the_files() -> None:
    assert decode(url(encoded(Image.new("RGB", (2, 2)), "JPEG"), "image/png")).size == (2, 2)


def test_parameters_before_base64() -> None:
    raw = base64.b64encode(encoded(Image.new("RGB", (2, 2)))).decode()
    assert decode(f"data:image/png;name=a.png;base64,{raw}").size == (2, 2)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    image = decode(url(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image/gif"))
    assert image.getpixel((1, 1)) == (255, 0, 0)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encoded(Image.new("RGB", (8, 4), "red"), "JPEG", exif=exif)
    assert decode(url(raw, "image/jpeg")).size == (4, 8)


def test_transparency_becomes_white() -> None:
    assert decode(url(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0))))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30])
    assert decode(url(encoded(palette, transparency=0))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert decode(url(encoded(Image.new(mode, (3, 3))))).mode == "RGB"


def test_sixteen_bit_grey_is_scaled() -> None:
    assert decode(url(encoded(Image.new("I;16", (2, 2), 0x8000)))).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://example.com/a.png", "images by URL are not enabled"),
        ("HTTP://example.com/a.png", "images by URL are not enabled"),
        ("file:///etc/passwd", "'file:' URLs are not accepted"),
        ("ftp://x/y", "'ftp:' URLs are not accepted"),
        ("/etc/passwd", "not a URL"),
        ("", "not a URL"),
        ("data:image/png,abc", "a data URL reads"),
        ("data:;base64,aGk=", "not accepted; send"),
        ("data:image/svg+xml;base64,PHN2Zz4=", r"'image/svg\+xml' are not accepted"),
        ("data:text/html;base64,aGk=", "'text/html' are not accepted"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64,aGk", "not base64"),
        ("data:image/png;base64,aGk=\n", "not base64"),
        ("data:image/png;base64,aGkgdGhlcmU=", "none of the formats"),
    ],
)
def test_refusals_name_part_and_remedy(given: str, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        decode(given)
    assert caught.value.param == WHERE


def test_limits_hold_before_decoding() -> None:
    raw = encoded(Image.new("RGB", (300, 200)))
    with pytest.raises(RequestTooLargeError, match="300×200 pixels"):
        decode(url(raw), Limits(max_image_pixels=59_999))
    with pytest.raises(RequestTooLargeError, match="bytes"):
        decode(url(raw), Limits(max_image_bytes=len(raw) - 1))
    assert decode(url(raw), Limits(max_image_bytes=len(raw), max_image_pixels=60_000)).size == (300, 200)


def test_a_bomb_is_refused_by_its_header() -> None:
    raw = bytearray(encoded(Image.new("L", (4, 4))))
    raw[16:24] = (60_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
    with pytest.raises(RequestTooLargeError, match="pixels"):
        decode(url(bytes(raw)))


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_image_errors(format_: str) -> None:
    dice = random.Random(7)
    raw = encoded(Image.effect_noise((40, 40), 90).convert("RGB"), format_)
    for _ in range(150):
        broken = bytearray(raw[: dice.randrange(1, len(raw) + 1)])
        for _ in range(dice.randrange(1, 12)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        with contextlib.suppress(ImageError, RequestTooLargeError):
            assert decode(url(bytes(broken))).mode == "RGB"


async def test_number_of_images() -> None:
    good = url(encoded(Image.new("RGB", (2, 2))))
    images = Images(Limits(max_images=2))
    assert len(await images.decode([(good, WHERE)] * 2)) == 2
    with pytest.raises(RequestTooLargeError, match="3 images"):
        await images.decode([(good, WHERE)] * 3)


async def test_all_images_of_a_request_together() -> None:
    raw = [encoded(Image.new("RGB", (20, 10), colour)) for colour in ("red", "blue")]
    urls = [(url(one), f"messages[0].content[{i}]") for i, one in enumerate(raw)]
    size = sum(map(len, raw))
    assert len(await Images(Limits(max_total_image_bytes=size, max_total_image_pixels=400)).decode(urls)) == 2
    for limits in (Limits(max_total_image_bytes=size - 1), Limits(max_total_image_pixels=399)):
        with pytest.raises(RequestTooLargeError, match="together") as caught:
            await Images(limits).decode(urls)
        assert caught.value.param == "messages[0].content[1]"
        # The same image twice is one.
        assert len(await Images(limits).decode([urls[0], (urls[0][0], "messages[0].content[2]")])) == 2


def test_sixteen_bits_with_a_transparent_colour() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    for colour, pixel in ((0, b"\x80\x00"), (2, b"\x80\x00\x40\x00\x20\x00")):
        header = b"\x00\x00\x00\x01\x00\x00\x00\x01\x10" + bytes([colour, 0, 0, 0])
        data = zlib.compress(b"\x00" + pixel)
        raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", pixel) + chunk(b"IDAT", data)
        assert decode(url(raw + chunk(b"IEND", b""))).mode == "RGB"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_malformed_exif_does_not_spoil_a_picture() -> None:
    raw = encoded(Image.new("RGB", (8, 4), "red"), "JPEG")
    for exif in (
        b"garbage",
        b"MM\x00\x2a\xff\xff\xff\xff",
        b"II\x2a\x00\x08\x00\x00\x00\xff\xff" + bytes(40),
    ):
        body = b"Exif\x00\x00" + exif
        given = raw[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + raw[2:]
        assert decode(url(given, "image/jpeg")).size == (8, 4)


def test_the_largest_file_allowed_is_not_over_the_limit_by_its_base64() -> None:
    raw = encoded(Image.new("RGB", (3, 3)))
    for extra in range(4):
        size = len(raw) + extra
        assert decode(url(raw + bytes(extra)), Limits(max_image_bytes=size)).size == (3, 3)
        with pytest.raises(RequestTooLargeError):
            decode(url(raw + bytes(extra)), Limits(max_image_bytes=size - 1))


def test_reference_images(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (2, 2))))
    assert read_references([str(path)])[0].size == (2, 2)
    with pytest.raises(ConfigError, match=r"b\.png"):
        read_references([str(tmp_path / "b.png")])
