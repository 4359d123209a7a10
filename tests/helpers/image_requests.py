"""Chat requests about an image of noise, as an OpenAI client sends them; they hold for any weights."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

from PIL import Image


def image_part(seed: int = 0) -> dict[str, Any]:
    """Return a content part with a 64 x 64 image of noise, as a data URL."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.Random(seed).randbytes(64 * 64 * 3)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def image_question(text: str = "What is the sum of all digits?", seed: int = 0) -> list[Any]:
    """Return the messages of a conversation that asks one question about one image."""
    return [{"role": "user", "content": [image_part(seed), {"type": "text", "text": text}]}]


def small_fan_out(**options: Any) -> dict[str, Any]:
    """Return an `extra_body` with 3 descriptions, 2 of them kept, 2 forks each, and `options` over these."""
    return {"mirl": {"descriptions": 3, "keep": 2, "forks": 2, "description_tokens": 48} | options}
