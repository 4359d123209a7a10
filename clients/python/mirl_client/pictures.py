"""Pictures as URLs that a request carries: files, bytes, PIL images, arrays and URLs.

Pillow is needed for PIL images, arrays, formats that the server does not take, and smaller copies only.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable
from urllib.parse import unquote_to_bytes

from mirl_client.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image


@runtime_checkable
class SupportsArray(Protocol):
    """An array of pixels, such as numpy's: `uint8`, of height × width, or that × 1, 3 or 4 channels."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Return numpy's description of the array."""
        ...


Picture: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image | SupportsArray"
"""A path, an http(s) or data URL, a file's bytes, an open binary file, a PIL image, or an array of pixels."""

SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


def picture_url(picture: Picture, *, max_pixels: int | None = None, max_side: int | None = None) -> str:
    """Return the URL of a picture for an `image_url` part: a data URL, or the picture's own http(s) URL.

    A picture within the bounds goes out as the bytes that it is. A larger one is scaled down, its shape kept,
    its EXIF rotation applied; a JPEG stays a JPEG, all else becomes a PNG.

    Args:
        picture: a path, a URL, bytes, an open binary file, a PIL image or an array of pixels.
        max_pixels: most pixels of the picture; None: no bound.
        max_side: most pixels of its longer side; None: no bound.

    Raises:
        PictureError: it can't be read, a bound is set for an http(s) URL, or Pillow is needed and missing.
    """
    for bound in (max_pixels, max_side):
        if bound is not None and bound < 1:
            raise PictureError(f"a picture has at least one pixel; the bound is {bound}")
    is_bounded = max_pixels is not None or max_side is not None
    if isinstance(picture, str) and picture.startswith(("http://", "https://")):
        if is_bounded:
            raise PictureError("the server fetches a picture by URL: the client can't scale it down")
        return picture
    if isinstance(picture, str) and picture.startswith("data:") and not is_bounded:
        return picture
    if not _is_pil(picture) and isinstance(picture, SupportsArray):
        picture = _image_of_array(picture)
    if _is_pil(picture):
        return _encoded(_scaled(picture, max_pixels, max_side), "PNG")
    data = picture_bytes(picture)
    kind = media_type(data)
    if kind is not None and not is_bounded:
        return _data_url(data, kind)
    image = open_image(data)
    if kind is not None and _scale(image.size, max_pixels, max_side) == 1:
        return _data_url(data, kind)
    return _encoded(_scaled(image, max_pixels, max_side), "JPEG" if kind == "image/jpeg" else "PNG")


def as_pictures(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """Return one picture or several as a list."""
    if isinstance(pictures, list | tuple):
        return list(pictures)
    return [cast("Picture", pictures)]


def picture_bytes(picture: object) -> bytes:
    """Return the bytes of a file, a data URL or an open binary file.

    Raises:
        PictureError: it can't be read, or is nothing of the kind.
    """
    if isinstance(picture, bytes | bytearray):
        return bytes(picture)
    if isinstance(picture, str) and picture.startswith("data:"):
        return _bytes_of_data_url(picture)
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise PictureError(f"{os.fspath(picture)}: {error.strerror or error}") from error
        except ValueError as error:
            raise PictureError(f"not a path: {error}") from error
    read = getattr(picture, "read", None)
    if read is None:
        raise PictureError(f"a picture can't be of type {type(picture).__name__}")
    data = read()
    if not isinstance(data, bytes):
        raise PictureError("a picture's file must be open in binary mode")
    return data


def media_type(data: bytes) -> str | None:
    """Return the media type of a file in a format that the server takes; None for another one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), None)


def open_image(data: bytes) -> Image.Image:
    """Return a file's bytes as a PIL image.

    Raises:
        PictureError: Pillow is missing, or can't read them.
    """
    pillow = _pillow("reading this picture")
    try:
        image: Image.Image = pillow.open(io.BytesIO(data))
        image.load()
    # Decoders raise errors of many kinds for a damaged file.
    except Exception as error:
        raise PictureError("not a picture that Pillow reads") from error
    return image


def _pillow(purpose: str) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise PictureError(f"{purpose} needs Pillow: pip install 'mirl-client[pictures]'") from error
    return Image


def _is_pil(picture: object) -> TypeGuard[Image.Image]:
    # Where the module is not loaded, nobody has an image of it.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(picture, module.Image)


def _image_of_array(array: SupportsArray) -> Image.Image:
    pillow = _pillow("an array of pixels")
    shape, kind = array.__array_interface__["shape"], array.__array_interface__["typestr"]
    if kind != "|u1" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"an array of pixels has dtype uint8 and shape (height, width), or that and 1, 3 or 4 channels; "
            f"this one has {kind} and {tuple(shape)}"
        )
    if 0 in shape:
        raise PictureError("the array has no pixels")
    if len(shape) == 3 and shape[2] == 1:
        array = array[:, :, 0]  # type: ignore[index]
    image: Image.Image = pillow.fromarray(array)
    return image


def _scale(size: tuple[int, int], max_pixels: int | None, max_side: int | None) -> float:
    """Return the factor of both sides that brings a size within the bounds, at most 1."""
    width, height = size
    scale = 1.0 if max_side is None else min(1.0, max_side / max(width, height))
    if max_pixels is not None:
        scale = min(scale, math.sqrt(max_pixels / (width * height)))
    return scale


def bounded_size(size: tuple[int, int], max_pixels: int | None, max_side: int | None) -> tuple[int, int]:
    """Return the largest size of about the same shape within the bounds, in pixels, each side at least 1."""
    scale = _scale(size, max_pixels, max_side)
    width, height = (max(1, math.floor(side * scale)) for side in size)
    # A side that was raised to 1 leaves the other one too long.
    if max_pixels is not None and width * height > max_pixels:
        width, height = (max_pixels, 1) if height == 1 else (1, max_pixels)
    return width, height


def _scaled(image: Image.Image, max_pixels: int | None, max_side: int | None) -> Image.Image:
    from PIL import Image, ImageOps

    if _scale(image.size, max_pixels, max_side) == 1:
        return image
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in ("L", "RGB", "RGBA"):
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    return upright.resize(bounded_size(upright.size, max_pixels, max_side), Image.Resampling.LANCZOS)


def _encoded(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    if kind == "JPEG":
        image.convert("RGB").save(buffer, kind, quality=95)
    else:
        image.save(buffer, kind)
    return _data_url(buffer.getvalue(), f"image/{kind.lower()}")


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _bytes_of_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise PictureError("a data URL has a comma before its data")
    data = unquote_to_bytes(body)
    if not head.endswith(";base64"):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise PictureError(f"the data URL's base64 is wrong: {error}") from error
