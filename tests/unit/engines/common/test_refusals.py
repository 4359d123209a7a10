"""Errors of processors: the reason and the images' sizes, neither addresses nor the request's content."""

from __future__ import annotations

import pytest
from PIL import Image

from mirl_core.engines.common.refusals import processor_refusal, without_addresses


def wrapped(root: Exception, data: str) -> Exception:
    """Return the error as vLLM raises it: with the whole input in its message."""
    try:
        try:
            raise root
        except Exception as error:
            raise ValueError(f"Failed to apply Qwen2VLProcessor on data={data} with kwargs={{}}") from error
    except ValueError as outer:
        return outer


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size) for size in sizes]


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (
            ValueError("absolute aspect ratio must be smaller than 200, got 300.0"),
            "absolute aspect ratio must be smaller than 200, got 300.0",
        ),
        (ZeroDivisionError("integer division or modulo by zero"), "integer division or modulo by zero"),
        (RuntimeError(""), "RuntimeError"),
        (ValueError(f"can't take {object()}"), "can't take <object object>"),
        (ValueError("x" * 5000), f"{'x' * 300}…"),
    ],
)
def test_the_root_is_named_and_nothing_else(root: Exception, reason: str) -> None:
    images = pictures((1200, 4))
    error = processor_refusal(
        wrapped(root, f"{{'text': 'a secret', 'images': {images}}}"), images, "Qwen2VLProcessor"
    )
    assert error.param == "messages"
    assert f"Qwen2VLProcessor can't take an image of 1200×4 pixels: {reason}; " in error.message
    assert "secret" not in error.message
    assert "0x" not in error.message
    assert len(error.message) < 500


def test_many_images_are_counted() -> None:
    images = pictures(*[(10, size) for size in range(1, 8)])
    message = processor_refusal(ValueError("no"), images, "P").message
    assert "images of 10×1, 10×2, 10×3, 10×4, 3 more pixels: no" in message


def test_without_images_the_messages_are_named() -> None:
    assert processor_refusal(ValueError("no"), [], "P").message == "P can't take these messages: no"


def test_addresses_are_left_out() -> None:
    image = Image.new("RGB", (3, 2))
    assert without_addresses(repr(image)) == "<PIL.Image.Image image mode=RGB size=3x2>"
    assert without_addresses("plain words") == "plain words"
