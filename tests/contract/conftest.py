"""What the contract tests send: pictures of noise, so that they hold for any weights."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

import pytest
from PIL import Image


def image_part(seed: int = 0) -> dict[str, Any]:
    """A picture as an OpenAI client sends it."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.Random(seed).randbytes(64 * 64 * 3)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def asking(text: str = "What is the sum of all digits?", seed: int = 0) -> list[Any]:
    """A conversation of one question about a picture."""
    return [{"role": "user", "content": [image_part(seed), {"type": "text", "text": text}]}]


def small(**options: Any) -> dict[str, Any]:
    """`extra_body` with a fan-out that keeps tests short."""
    return {"mirl": {"descriptions": 3, "keep": 2, "forks": 2, "description_tokens": 48} | options}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/contract/" in item.path.as_posix():
            item.add_marker(pytest.mark.vllm)
