"""Pictures as models see them, whether from a request, a file or a data set."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["upright_rgb"]


def upright_rgb(image: Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image:
    """Return the first frame of an opened picture in RGB, upright by its EXIF, on white (as in vLLM).

    Args:
        background: the colour behind transparent pixels.

    Raises:
        Exception: Pillow's, of any type, for broken pixels.
    """
    from PIL import Image as Images
    from PIL import ImageOps

    image.load()
    # Malformed EXIF is common in files that every viewer shows; Pillow raises many types of errors for it.
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's conversion clips instead of scaling.
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", image.size, background), image)
    return image.convert("RGB")
