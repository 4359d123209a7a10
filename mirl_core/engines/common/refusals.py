"""What a request's sender is shown of an error that a model's processor or chat template raised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mirl_core.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["processor_refusal", "without_addresses"]

_ADDRESS = re.compile(r" ?at 0x[0-9a-fA-F]+")
_MOST_SIZES = 4
_MOST_CHARACTERS = 300


def without_addresses(message: str) -> str:
    """Return `message` without the memory addresses that Python prints for objects."""
    return _ADDRESS.sub("", message)


def processor_refusal(error: BaseException, images: Sequence[Image], processor: str) -> RequestError:
    """Return the error for a request that a model's processor can't take, by the reason at its root.

    Wrapping errors quote the whole input; the root does not.

    Args:
        images: all images of the request, in order.
        processor: the class of the processor.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    reason = without_addresses(" ".join(str(error).split())) or type(error).__name__
    if len(reason) > _MOST_CHARACTERS:
        reason = f"{reason[:_MOST_CHARACTERS]}…"
    if not images:
        return RequestError(f"{processor} can't take these messages: {reason}", param="messages")
    sizes = [f"{image.width}×{image.height}" for image in images[:_MOST_SIZES]]
    if more := len(images) - len(sizes):
        sizes.append(f"{more} more")
    what = f"an image of {sizes[0]}" if len(images) == 1 else f"images of {', '.join(sizes)}"
    return RequestError(
        f"{processor} can't take {what} pixels: {reason}; send another size or shape", param="messages"
    )
