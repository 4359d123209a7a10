"""Whatever is sent ends as an upright RGB image, or as an error that names the part at fault."""

import base64
import contextlib
import io
import random
import re
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


def decode(image_url: str, limits: Limits | None = None) -> Image.Image:
    return decode_url(image_url, WHERE, ImageBudget.of(limits or Limits()))


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


DATA = "send a data URL (data:image/png;base64,…)"
FORM = "a data URL reads data:image/png;base64,… (or jpeg, webp, gif, bmp)"
KINDS = "send PNG, JPEG, WebP, GIF or BMP"
BASE64 = "the image's data is not base64: the standard alphabet, padded, without spaces"


@pytest.mark.parametrize(
    ("image_url", "message"),
    [
        ("https://example.com/a.png",
         f"images by URL are not enabled (the operator's --allow-image-host does); {DATA}"),
        ("HTTP://example.com/a.png",
         f"images by URL are not enabled (the operator's --allow-image-host does); {DATA}"),
        ("file:///etc/passwd", f"'file:' URLs are not accepted; {DATA}"),
        ("ftp://x/y:z", f"'ftp:' URLs are not accepted; {DATA}"),
        ("Data;base64,aGk=", f"that is not a URL; {DATA}"),
        ("fifteen-letters:a", f"'fifteen-letters:' URLs are not accepted; {DATA}"),
        ("sixteen--letters:a", f"that is not a URL; {DATA}"),
        (":a", f"that is not a URL; {DATA}"),
        ("/etc/passwd", f"that is not a URL; {DATA}"),
        ("", f"that is not a URL; {DATA}"),
        ("data:image/png,abc", FORM),
        ("data:image/png;base64aGk=", FORM),
        ("data:;base64,aGk=", f"the image's data is none of the formats accepted; {KINDS}"),
        ("data:IMAGE/SVG+XML;base64,PHN2Zz4=", f"the image's data is none of the formats accepted; {KINDS}"),
        ("data:text/html;base64,aGk=", f"images of type 'text/html' are not accepted; {KINDS}"),
        ("data:images/png;base64,aGk=", f"images of type 'images/png' are not accepted; {KINDS}"),
        ("data:octet-stream;base64,aGk=", f"images of type 'octet-stream' are not accepted; {KINDS}"),
        (f"data:video/{'x' * 34};base64,aGk=",
         f"images of type 'video/{'x' * 34}' are not accepted; {KINDS}"),
        (f"data:video/{'x' * 35};base64,aGk=",
         f"images of type 'video/{'x' * 34}' are not accepted; {KINDS}"),
        ("data:image/png;base64,", f"the image is empty; {KINDS}"),
        ("data:image/png;base64,@@@@", BASE64),
        ("data:image/png;base64,a-_=", BASE64),
        ("data:image/png;base64,aGk", BASE64),
        ("data:image/png;base64,aGk=\n", BASE64),
        ("data:image/png;base64,aGkgdGhlcmU=", f"the image's data is none of the formats accepted; {KINDS}"),
        ("data:image/png;base64,iVBORw0KGgo=", "the image is damaged or cut short; send a whole file"),
    ],
)  # fmt: skip
def test_refusals_name_part_and_remedy(image_url: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(image_url)
    assert (caught.value.message, caught.value.param) == (message, WHERE)


@pytest.mark.parametrize("padding", ["aGk", "aGkx=", "aGkxa===", "a===", "===="])
def test_padding_is_checked_before_the_decoder(padding: str) -> None:
    """Python's decoder differs between versions in the padding that it accepts."""
    with pytest.raises(ImageError) as caught:
        decode(f"data:image/png;base64,{padding}")
    assert (caught.value.message, str(caught.value.__cause__)) == (BASE64, "padding")


@pytest.mark.parametrize(("fill", "accepted"), [(256, True), (257, False)])
def test_the_head_of_a_data_url_has_a_longest_form(fill: int, accepted: bool) -> None:
    begin, end = "data:image/png;a=", ";base64,"
    head = begin + "b" * (fill - len(begin) - len(end)) + end
    image_url = head + base64.b64encode(encoded(Image.new("RGB", (2, 2)))).decode()
    if accepted:
        assert decode(image_url).size == (2, 2)
        return
    with pytest.raises(ImageError) as caught:
        decode(image_url)
    assert caught.value.message == FORM


def test_every_declared_type_that_browsers_use() -> None:
    raw = encoded(Image.new("RGB", (2, 2)))
    for kind in ("image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif", "image/bmp", "IMAGE/PNG"):
        assert decode(url(raw, kind)).size == (2, 2)


TYPES = (
    "", "image", "image/", "image/*", "image/x-png", "image/pjpeg", "image/tiff", "image/svg+xml",
    "Image/PNG", "application/octet-stream", "binary/octet-stream", "APPLICATION/OCTET-STREAM",
)  # fmt: skip
PARAMETERS = ("", ";charset=utf-8", ";name=a%20b.png", ";name=my picture (1).png", ";utf8", ";a=b;c=d")


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_the_files_own_bytes_say_what_it_is(format_: str, parameters: str) -> None:
    raw = encoded(Image.new("RGB", (5, 4), "red"), format_)
    for kind in TYPES:
        assert decode(url(raw, kind + parameters)).size == (5, 4), kind


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


LONG = bytes(2**20 + 1)
XMP = b"XML:com.adobe.xmp"
TURNED = b'<x tiff:Orientation="6"/>'
METADATA: dict[str, tuple[bytes, ...]] = {
    "a colour profile": (chunk(b"iCCP", b"a\0\0" + zlib.compress(LONG)),),
    "a profile that is damaged": (chunk(b"iCCP", b"a\0\0no"), chunk(b"iCCP", b"a"), chunk(b"iCCP", b"")),
    "a text": (chunk(b"tEXt", b"a\0" + LONG),),
    "an expanded text": (chunk(b"zTXt", b"a\0\0" + zlib.compress(LONG)),),
    "an international text": (chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(LONG)),),
    "many texts": (chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))),) * 70,
    "texts on rotation that are long": (
        chunk(b"iTXt", XMP + b"\0\1\0\0\0" + zlib.compress(LONG)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LONG)),
        *[chunk(b"iTXt", XMP + b"\0\0\0\0\0" + bytes(2**19))] * 4,
    ),
    "texts that are damaged": (
        chunk(b"zTXt", XMP + b"\0\0no"), chunk(b"zTXt", XMP + b"\0\7no"), chunk(b"iTXt", XMP),
        chunk(b"tEXt", b"\xff\xfe"), chunk(b"zTXt", b""), chunk(b"iTXt", b"a\0\1\7"),
    ),
    "measures that are damaged": (chunk(b"pHYs", b"1"), chunk(b"cHRM", b"1"), chunk(b"gAMA", b"")),
    "chunks of one program": (chunk(b"prVt", LONG), chunk(b"vpAg", b"1")),
    "a chunk with a wrong checksum": (chunk(b"tEXt", b"a\0b")[:-1] + b"?",),
}  # fmt: skip


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", METADATA)
def test_a_png_is_taken_without_its_metadata(name: str, behind: bool) -> None:
    raw = encoded(Image.effect_noise((20, 10), 90))
    place = len(raw) - 12 if behind else raw.index(b"IDAT") - 4
    altered = raw[:place] + b"".join(METADATA[name]) + raw[place:]
    assert decode(url(altered)).tobytes() == decode(url(raw)).tobytes()


@pytest.mark.parametrize(
    "rotation",
    [
        chunk(b"iTXt", XMP + b"\0\0\0\0\0" + TURNED),
        chunk(b"iTXt", XMP + b"\0\1\0\0\0" + zlib.compress(TURNED)),
    ],
)
def test_a_png_is_turned_by_its_metadata(rotation: bytes) -> None:
    raw = encoded(Image.new("RGB", (8, 4)))
    place = raw.index(b"IDAT") - 4
    for others in (b"", METADATA["a text"][0]):
        assert decode(url(raw[:place] + others + rotation + raw[place:])).size == (4, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(url(encoded(Image.new("RGB", (8, 4)), exif=exif))).size == (4, 8)


def test_other_formats_are_taken_with_large_metadata() -> None:
    image, exif = Image.effect_noise((20, 10), 90).convert("RGB"), Image.Exif()
    exif[0x010E] = "x" * 60_000
    for format_ in ("JPEG", "WEBP"):
        raw = encoded(image, format_, icc_profile=LONG * 3, exif=exif, xmp=b"x" * 60_000)
        assert decode(url(raw)).size == (20, 10)


def test_limits_hold_before_decoding() -> None:
    raw = encoded(Image.new("RGB", (300, 200)))
    for limits, message in (
        (Limits(max_image_pixels=59_999),
         "the image has 300×200 pixels, more than 59999; send a smaller one"),
        (Limits(max_image_bytes=len(raw) - 1), f"the image is over {len(raw) - 1} bytes; send a smaller one"),
        (Limits(max_total_image_pixels=59_999),
         "the request's images have more than 59999 pixels together; send fewer or smaller ones"),
        (Limits(max_total_image_bytes=len(raw) - 1),
         f"the request's images are over {len(raw) - 1} bytes together; send fewer or smaller ones"),
    ):  # fmt: skip
        with pytest.raises(RequestTooLargeError) as caught:
            decode(url(raw), limits)
        assert (caught.value.message, caught.value.param) == (message, WHERE)
    assert decode(url(raw), Limits(max_image_bytes=len(raw), max_image_pixels=60_000)).size == (300, 200)


@pytest.mark.parametrize(("characters", "too_large"), [(16, False), (17, False), (18, True)])
def test_a_long_text_is_refused_before_it_is_decoded(characters: int, too_large: bool) -> None:
    """Up to 17 characters may be ten bytes: the last two may be padding."""
    kind, message = (
        (RequestTooLargeError, "the image is over 10 bytes; send a smaller one")
        if too_large
        else (ImageError, BASE64)
    )
    with pytest.raises(kind) as caught:
        decode("data:image/png;base64," + "@" * characters, Limits(max_image_bytes=10))
    assert (caught.value.message, caught.value.param) == (message, WHERE)


def test_bytes_and_pixels_are_charged_to_the_budget() -> None:
    raw = encoded(Image.new("RGB", (5, 3)))
    budget = ImageBudget.of(Limits(max_total_image_bytes=1000, max_total_image_pixels=40))
    assert (budget.bytes, budget.pixels) == (1000, 40)
    for times in (1, 2):
        decode_url(url(raw), WHERE, budget)
        assert (budget.bytes, budget.pixels) == (1000 - times * len(raw), 40 - times * 15)
    with pytest.raises(RequestTooLargeError, match="pixels together"):
        decode_url(url(raw), WHERE, budget)


def test_no_bytes_fit_a_spent_budget() -> None:
    budget = ImageBudget(Limits(max_image_bytes=9), bytes=0, pixels=0)
    for before, count in ((0, 0), (9, 0)):
        budget.take_bytes(count, WHERE, before)
    with pytest.raises(ImageError, match="empty"):
        decode_url("data:image/png;base64,", WHERE, budget)
    for before, count, message in ((0, 1, "together"), (9, 1, "over 9 bytes; send a smaller")):
        with pytest.raises(RequestTooLargeError, match=message):
            budget.take_bytes(count, WHERE, before)
    assert budget.bytes == 0


def test_a_bomb_is_refused_by_its_header() -> None:
    raw = bytearray(encoded(Image.new("L", (4, 4))))
    raw[16:24] = (60_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
    with pytest.raises(RequestTooLargeError) as caught:
        decode(url(bytes(raw)))
    assert caught.value.message == "the image has too many pixels; send a smaller one"
    assert caught.value.param == WHERE


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
    urls = [(url(image), f"messages[0].content[{i}]") for i, image in enumerate(raw)]
    size = sum(map(len, raw))
    assert len(await Images(Limits(max_total_image_bytes=size, max_total_image_pixels=400)).decode(urls)) == 2
    for limits in (Limits(max_total_image_bytes=size - 1), Limits(max_total_image_pixels=399)):
        with pytest.raises(RequestTooLargeError, match="together") as caught:
            await Images(limits).decode(urls)
        assert caught.value.param == "messages[0].content[1]"
        # The same image twice is one.
        assert len(await Images(limits).decode([urls[0], (urls[0][0], "messages[0].content[2]")])) == 2


def test_sixteen_bits_with_a_transparent_colour() -> None:
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
        altered = raw[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + raw[2:]
        assert decode(url(altered, "image/jpeg")).size == (8, 4)


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
    pictures = read_references([str(path)] * 2)
    assert [picture.size for picture in pictures] == [(2, 2)] * 2
    assert read_references([]) == ()
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    for name, reason in (("b.png", "No such file"), ("empty.png", "the image is empty; send PNG")):
        broken = str(tmp_path / name)
        with pytest.raises(ConfigError, match=rf"^reference image {re.escape(broken)}: .*{reason}") as caught:
            read_references([str(path), broken])
        assert caught.value.param == "reference_images"
        assert getattr(caught.value.__cause__, "param", broken) == broken
