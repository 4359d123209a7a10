"""Images out of requests: data URLs, decoded once, in a thread, within the operator's limits.

Whatever a client sends ends as an RGB image or as an ImageError (RequestTooLargeError where a limit is the
reason) that names the content part at fault. Nothing is fetched: http(s) and file URLs are refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mirl_core.config import Limits
from mirl_core.errors import ConfigError, ImageError, RequestTooLargeError
from mirl_core.images import upright_rgb

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
}
_DATA_URL = re.compile(
    r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]+)*(;base64)?,", re.ASCII | re.IGNORECASE
)
# What Pillow's decoders raise on damaged or hostile files, beside OSError.
_DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    AttributeError, AssertionError, NotImplementedError, struct.error, zlib.error, MemoryError,
)  # fmt: skip


async def decode_images(urls: Sequence[tuple[str, str]], limits: Limits) -> list[Image.Image]:
    """Decode `(url, where)` pairs in one thread; `where` names the content part in errors."""
    if len(urls) > limits.max_images:
        raise RequestTooLargeError(
            f"the conversation has {len(urls)} images; this server takes at most {limits.max_images}",
            param=urls[limits.max_images][1],
        )
    return await asyncio.to_thread(lambda: [decode_url(url, where, limits) for url, where in urls])


def decode_url(url: str, where: str, limits: Limits) -> Image.Image:
    """The image of one data URL."""
    scheme = url[:16].split(":", 1)[0].lower() if ":" in url[:16] else ""
    if scheme != "data":
        raise ImageError(_refusal(scheme), param=where)
    head = _DATA_URL.match(url)
    if head is None or not head[2]:
        raise ImageError("a data URL reads data:image/png;base64,… (or jpeg, webp, gif, bmp)", param=where)
    kind = (head[1] or "").lower()
    if kind not in FORMATS:
        known = ", ".join(sorted(name.removeprefix("image/") for name in FORMATS))
        raise ImageError(f"images of type '{kind[:40]}' are not accepted; send {known}", param=where)
    encoded = url[head.end() :]
    if len(encoded) * 3 // 4 > limits.max_image_bytes + 2:
        raise RequestTooLargeError(f"the image is over {limits.max_image_bytes} bytes", param=where)
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("the image's data is not base64", param=where) from error
    return decode_bytes(raw, where, limits)


def decode_bytes(raw: bytes, where: str, limits: Limits) -> Image.Image:
    """An encoded file as an upright RGB image: first frame, EXIF rotation applied, transparency on white."""
    if not raw:
        raise ImageError("the image is empty", param=where)
    if len(raw) > limits.max_image_bytes:
        raise RequestTooLargeError(f"the image is over {limits.max_image_bytes} bytes", param=where)
    try:
        with Image.open(io.BytesIO(raw), formats=sorted(set(FORMATS.values()))) as image:
            # The header's size is checked before a single pixel is decompressed.
            if image.width * image.height > limits.max_image_pixels:
                raise RequestTooLargeError(
                    f"the image has {image.width}×{image.height} pixels, more than {limits.max_image_pixels}",
                    param=where,
                )
            return upright_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestTooLargeError(
            f"the image has more than {limits.max_image_pixels} pixels", param=where
        ) from error
    except _DAMAGED as error:
        raise ImageError("the image is damaged, or of another format than it says", param=where) from error


def read_references(paths: Sequence[str]) -> tuple[Image.Image, ...]:
    """The model's reference images (`mirl.json`), decoded."""
    images = []
    for path in paths:
        try:
            images.append(decode_bytes(Path(path).read_bytes(), path, Limits()))
        except (OSError, ImageError, RequestTooLargeError) as error:
            raise ConfigError(f"reference image {path}: {error}", param="reference_images") from error
    return tuple(images)


def _refusal(scheme: str) -> str:
    if scheme in ("http", "https"):
        return "images by URL are not enabled; send a data URL (data:image/png;base64,…)"
    what = f"'{scheme}:' URLs are not accepted" if scheme else "that is not a URL"
    return f"{what}; send a data URL (data:image/png;base64,…)"
