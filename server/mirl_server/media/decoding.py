"""Decoding of image files within the operator's limits: first frame, upright, RGB.

Every input ends as an RGB image or as an ImageError (RequestTooLargeError where a limit is the reason) that
names the content part at fault. Decoding is CPU work: run it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mirl_core.config import Limits
from mirl_core.engines.common.images import upright_rgb
from mirl_core.errors import ConfigError, ImageError, RequestTooLargeError
from mirl_server.media.rules import refused_url
from mirl_server.media.structure import FORMATS, UnreasonableError, media_type, passes, without_metadata

MAX_PASSES = 16
"""Most passes of a decoder over the pixels of the largest picture. A progressive photo takes about 10."""
KNOWN = "send PNG, JPEG, WebP, GIF or BMP"
_DATA_URL = re.compile(r"data:([^;,]*)(?:;(?!base64[;,])[^;,]*)*(;base64)?,", re.IGNORECASE)
_DECLARED = re.compile(r"|image|image/.*|[^/]+/octet-stream", re.DOTALL)
"""Media types under which a picture may come; the file itself says of which format it is."""
_LONGEST_HEAD = 256
DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError,
    AssertionError, NotImplementedError, RecursionError, struct.error, zlib.error, MemoryError,
)  # fmt: skip
"""The exceptions of Pillow's decoders for damaged or hostile files."""


@dataclass(slots=True)
class ImageBudget:
    """The bytes and pixels that are left for one request's images together."""

    limits: Limits
    bytes: int
    pixels: int

    @classmethod
    def of(cls, limits: Limits) -> ImageBudget:
        """Return the full budget that the limits allow one request."""
        return cls(limits, limits.max_total_image_bytes, limits.max_total_image_pixels)

    def check_bytes(self, count: int, where: str, before: int = 0) -> None:
        """Raise RequestTooLargeError if an image exceeds a limit with `count` more bytes after `before`."""
        if before + count > self.limits.max_image_bytes:
            raise RequestTooLargeError(
                f"the image is over {self.limits.max_image_bytes} bytes; send a smaller one", param=where
            )
        if count > self.bytes:
            raise RequestTooLargeError(
                f"the request's images are over {self.limits.max_total_image_bytes} bytes together; "
                "send fewer or smaller ones",
                param=where,
            )

    def take_bytes(self, count: int, where: str, before: int = 0) -> None:
        """Check the bytes as `check_bytes` does, and subtract them from the budget."""
        self.check_bytes(count, where, before)
        self.bytes -= count

    def check_pixels(self, width: int, height: int, where: str) -> None:
        """Raise RequestTooLargeError if a picture exceeds a limit in pixels."""
        if width * height > self.limits.max_image_pixels:
            raise RequestTooLargeError(
                f"the image has {width}×{height} pixels, more than {self.limits.max_image_pixels}; "
                "send a smaller one",
                param=where,
            )
        if width * height > self.pixels:
            raise RequestTooLargeError(
                f"the request's images have more than {self.limits.max_total_image_pixels} pixels together; "
                "send fewer or smaller ones",
                param=where,
            )


def decode_url(url: str, where: str, budget: ImageBudget) -> Image.Image:
    """Decode the picture of a data URL.

    Args:
        where: the content part of the URL, as errors name it.
    """
    return decode_bytes(data_bytes(url, where, budget), where, budget)


def data_bytes(url: str, where: str, budget: ImageBudget) -> bytes:
    """Return the encoded image of a data URL. As in browsers, the declared type may be wrong or absent."""
    if url[:5].lower() != "data:":
        raise refused_url(url, where)
    head = _DATA_URL.match(url[:_LONGEST_HEAD])
    if head is None or not head[2]:
        raise ImageError("a data URL reads data:image/png;base64,… (or jpeg, webp, gif, bmp)", param=where)
    kind = head[1].strip().lower()
    if not _DECLARED.fullmatch(kind):
        raise ImageError(f"images of type '{kind[:40]}' are not accepted; {KNOWN}", param=where)
    encoded = url[head.end() :]
    # Up to two characters of the last four are padding.
    budget.check_bytes(max(len(encoded) * 3 // 4 - 2, 0), where)
    try:
        # Python's own check of superfluous padding differs between versions.
        if len(encoded) % 4 or encoded[-3:] == "===":
            raise ValueError("padding")
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            "the image's data is not base64: the standard alphabet, padded, without spaces", param=where
        ) from error


def decode_bytes(
    raw: bytes, where: str, budget: ImageBudget, background: tuple[int, int, int] = (255, 255, 255)
) -> Image.Image:
    """Decode a file as an upright RGB image: first frame, EXIF rotation applied, transparency on white.

    Args:
        background: the colour in place of white.
    """
    with _opened(raw, where, budget) as image:
        # The encoded size: rotation does not change the count.
        pixels = image.width * image.height
        upright = upright_rgb(image, background)
        budget.pixels -= pixels
        return upright


def check_bytes(raw: bytes, where: str, budget: ImageBudget) -> str:
    """Check an encoded file by its header alone; return its media type."""
    with _opened(raw, where, budget) as image:
        budget.pixels -= image.width * image.height
    return str(media_type(raw))


@contextmanager
def _opened(raw: bytes, where: str, budget: ImageBudget) -> Iterator[Image.Image]:
    """Yield a file opened by the decoder of its format, after its header is checked against the limits."""
    if not raw:
        raise ImageError(f"the image is empty; {KNOWN}", param=where)
    budget.take_bytes(len(raw), where)
    kind = media_type(raw[:16])
    if kind is None:
        raise ImageError(f"the image's data is none of the formats accepted; {KNOWN}", param=where)
    try:
        rounds = passes(raw, kind)
        content = without_metadata(raw) if kind == "image/png" else raw
        with Image.open(io.BytesIO(content), formats=[FORMATS[kind]]) as image:
            # Checked before any pixel is decompressed.
            budget.check_pixels(image.width, image.height, where)
            if rounds * image.width * image.height > MAX_PASSES * budget.limits.max_image_pixels:
                raise UnreasonableError("scans")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestTooLargeError(
            "the image has too many pixels; send a smaller one", param=where
        ) from error
    except UnreasonableError as error:
        raise ImageError(
            "the image's file is too intricate to open; save it anew, not progressive and without metadata",
            param=where,
        ) from error
    except DAMAGED as error:
        raise ImageError("the image is damaged or cut short; send a whole file", param=where) from error


def read_references(paths: Sequence[str]) -> tuple[Image.Image, ...]:
    """Decode the model's reference images (`mirl.json`).

    Raises:
        ConfigError: a file can't be read or decoded.
    """
    images = []
    for path in paths:
        try:
            images.append(decode_bytes(Path(path).read_bytes(), path, ImageBudget.of(Limits())))
        except (OSError, ImageError, RequestTooLargeError) as error:
            raise ConfigError(f"reference image {path}: {error}", param="reference_images") from error
    return tuple(images)
