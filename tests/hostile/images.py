"""Hostile images, as data URLs: damaged, lying, of other formats, small to send and long to open."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from mirl_core.config import Limits

LIMITS = Limits(max_image_bytes=4 * 2**20, max_image_pixels=4_000_000)
"""Under which every one of them is to be refused."""
SECONDS = 5.0
"""CPU time within which it is."""
NOISE = Image.effect_noise((64, 48), 90).convert("RGB")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def encoded(format_: str, image: Image.Image = NOISE, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **how)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def bmp(width: int, height: int, compression: int, body: bytes, bits: int = 8) -> bytes:
    palette = bytes(4 * 256)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, 256, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 54 + len(palette) + len(body), 0, 0, 54 + len(palette))
        + header
        + palette
        + body
    )


def many_scans(scans: int) -> bytes:
    raw = encoded("JPEG", Image.new("RGB", (1500, 1500), "red"), progressive=True)
    last, end = raw.rfind(b"\xff\xc4", 0, raw.rfind(b"\xff\xda")), raw.rfind(b"\xff\xd9")
    return raw[:end] + raw[last:end] * scans + raw[end:]


def files() -> Iterator[tuple[str, bytes]]:
    for name in FORMATS:
        raw = encoded(name)
        for share in (2, 10, 30, 50, 80):
            yield f"{name} cut to {share}%", raw[: len(raw) * share // 100]
        yield f"{name} of zeros behind its signature", raw[:16] + bytes(len(raw))
        yield f"{name} of ones behind its signature", raw[:16] + b"\xff" * len(raw)
        yield f"{name} twice reversed", raw[:12] + raw[:11:-1]
    jpeg, gif = encoded("JPEG"), encoded("GIF")
    for width, height in (
        (65_000, 65_000),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (2**31 - 1, 2**31 - 1),
        (0, 0),
        (0, 9),
    ):
        yield f"PNG of {width}×{height}", png(width, height, chunk(b"IDAT", zlib.compress(bytes(99))))
        yield f"BMP of {width}×{height}", bmp(width, height, 0, bytes(99))
    yield "BMP of a negative width", bmp(-9, 9, 0, bytes(999))
    yield "BMP of the least height", bmp(9, -(2**31), 0, bytes(999))
    yield "JPEG of 65535×65535", jpeg.replace(struct.pack(">HH", 48, 64), b"\xff\xff\xff\xff", 1)
    yield "GIF of 65535×65535", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    yield "PNG that is black for ever", png(2000, 2001, chunk(b"IDAT", zlib.compress(bytes(6002 * 2001), 9)))
    yield "PNG without data", png(9, 9)
    yield "PNG without a header", b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    yield "PNG of impossible depth", png(9, 9, chunk(b"IDAT", zlib.compress(bytes(270))), depth=3, colour=6)
    yield "PNG with a text bomb", png(9, 9, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))))
    yield "PNG with text bombs", png(9, 9, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 70)
    yield "PNG with a profile bomb", png(9, 9, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26))))
    yield "PNG of empty chunks", png(9, 9, chunk(b"prVt", b"") * 300_000)
    yield "PNG with a chunk beyond its end", png(9, 9, struct.pack(">I", 2**31 - 1) + b"IDAT")
    yield "PNG with a negative chunk", png(9, 9, struct.pack(">I", 2**32 - 1) + b"tEXt")
    yield "JPEG of many scans", many_scans(5000)
    yield "JPEG of EXIF in pieces", jpeg[:2] + segment(0xE1, b"Exif\0\0" + bytes(100)) * 35_000 + jpeg[2:]
    yield "JPEG of empty comments", jpeg[:2] + segment(0xFE, b"") * 900_000 + jpeg[2:]
    yield "JPEG that starts again and again", b"\xff\xd8" * 2_000_000
    yield "JPEG of junk before its segments", jpeg[:2] + b"\xff\xff" * 10 + bytes(2**20) + jpeg[2:]
    yield "JPEG of fill", jpeg[:3] + b"\xff" * 2**20 + jpeg[3:]
    yield "JPEG with a segment of no length", jpeg[:2] + b"\xff\xe1\x00\x00" + jpeg[2:]
    yield "JPEG of 17 components", jpeg.replace(b"\x00\x40\x03\x01", b"\x00\x40\x11\x01", 1)
    yield "JPEG without tables", jpeg[:2] + jpeg[jpeg.index(b"\xff\xc0") :]
    yield "GIF of comments", gif[:13] + gif[13 : 13 + 768] + b"!\xfe\x01a\x00" * 700_000 + gif[13 + 768 :]
    yield "GIF without a frame", gif[:781] + b";"
    yield (
        "GIF of a code size that is none",
        gif[:781] + b"," + struct.pack("<HHHHB", 0, 0, 64, 48, 0) + b"\xff\x00;",
    )
    yield (
        "GIF with a frame outside of it",
        gif[:781] + b"," + struct.pack("<HHHHB", 65535, 65535, 65535, 65535, 0) + gif[791:],
    )
    yield "BMP of run lengths", bmp(1999, 1999, 1, b"\x01\x01" * 2_000_000)
    yield "BMP of run lengths in nibbles", bmp(1999, 1999, 2, b"\xff\x01" * 10_000, bits=4)
    yield "BMP of jumps", bmp(1999, 1999, 1, b"\x00\x02\xff\xff" * 1000)
    yield "BMP of unknown compression", bmp(9, 9, 77, bytes(99))
    yield "WebP of a size that it has not", b"RIFF" + b"\xff" * 4 + b"WEBP" + encoded("WEBP")[12:]
    yield "WebP without chunks", b"RIFF\x04\x00\x00\x00WEBP"
    yield (
        "WebP of 16384×16384",
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + b"\x02\0\0\0" + b"\xff\x3f\x00" * 2 + bytes(8),
    )
    for name in (
        "TIFF",
        "ICO",
        "PPM",
        "TGA",
        "PCX",
        "SGI",
        "JPEG2000",
        "DDS",
        "ICNS",
        "PDF",
        "EPS",
        "MSP",
        "XBM",
    ):
        image = NOISE.convert("1") if name in ("MSP", "XBM") else NOISE
        try:
            yield f"{name} as PNG", encoded(name, image)
        except (OSError, KeyError, ValueError):  # Pillow was built without it
            continue
    texts = {
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "PSD": b"8BPS\x00\x01" + bytes(99), "ZIP": b"PK\x03\x04" + bytes(99), "ELF": b"\x7fELF" + bytes(99),
        "MP4": b"\x00\x00\x00\x20ftypisom" + bytes(99), "AVIF": b"\x00\x00\x00\x20ftypavif" + bytes(99),
        "WAVE": b"RIFF\x24\x00\x00\x00WAVE" + bytes(99), "pickle": b"\x80\x04\x95" + bytes(99),
        "MVG": b"push graphic-context\nviewbox 0 0 9 9\nfill 'url(https://example.com/)'\n",
    }  # fmt: skip
    for name, text in texts.items():
        yield f"{name} as PNG", text
    for signature in (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"GIF87a",
        b"BM",
        b"RIFF\x04\x00\x00\x00WEBP",
    ):
        yield f"no more than {signature!r}", signature
        yield f"{signature!r} and zeros", signature + bytes(2**20)
    yield "one byte", b"\x00"
    yield "over the limit", bytes(4 * 2**20 + 1)


def urls() -> Iterator[tuple[str, str]]:
    for name, raw in files():
        yield name, "data:image/png;base64," + base64.b64encode(raw).decode()
    good = base64.b64encode(encoded("PNG")).decode()
    whole = f"data:image/png;base64,{good}"
    for name, url in {
        "a line break": whole[:60] + "\n" + whole[60:], "a space": whole[:60] + " " + whole[60:],
        "a trailing line break": whole + "\n", "percent encoding": whole[:60] + "%2B" + whole[63:],
        "url-safe base64": whole[:60] + "-_" + whole[62:], "padding within": whole[:60] + "==" + whole[62:],
        "more padding": whole + "====", "data behind the padding": whole.rstrip("=") + "==AAAA",
        "a character short": whole.rstrip("=")[:-1], "NUL": whole[:60] + "\0" + whole[61:],
        "letters of another script": whole[:60] + "а" + whole[61:], "a surrogate": whole + "\ud800",
        "no base64": f"data:image/png,{good}",
        "no data": "data:image/png;base64,", "no comma": "data:image/png;base64",
        "a video's type": f"data:video/mp4;base64,{good}", "no image's type": f"data:text/html;base64,{good}",
        "base64 first": f"data:base64;image/png,{good}",
        "a long head": f"data:image/png;a={'b' * 10**6};base64,{good}",
        "many parameters": f"data:image/png{';a=b' * 10**5};base64,{good}",
        "two base64": f"data:image/png;base64;base64,{good}", "a space before": f" {whole}",
        "nested": f"data:image/png;base64,data:image/png;base64,{good}", "only a scheme": "data:",
        "nothing": "",
        "a path": "/etc/passwd", "a file": "file:///etc/passwd", "ftp": "ftp://example.com/a.png",
        "http": "http://169.254.169.254/latest/meta-data/", "https": "https://localhost/a.png",
        "javascript": "javascript:alert(1)", "a blob": "blob:https://example.com/1", "s3": "s3://bucket/a.png",
        "a mere name": "a.png", "many letters": "a" * 10**6, "colons": ":" * 99,
    }.items():  # fmt: skip
        yield f"URL with {name}", url


CORPUS = dict(urls())
LARGE = frozenset({"PNG that is black for ever"})
"""Refused for its size alone: by LIMITS, not by the server's own."""
