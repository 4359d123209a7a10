"""Questions about the bundled model's images, and the options with which tests run the pipeline on them."""

from __future__ import annotations

import itertools

from PIL import Image

from mirl_core.bundled import DIGITS
from mirl_core.config import ModelSettings
from mirl_core.types import Conversation

NUMBERS = itertools.count()
SMALL = {"descriptions": 4, "keep": 3, "forks": 2}


def picture(number: int = 0) -> Conversation:
    question = DIGITS.questions()[number]
    with Image.open(question.file) as image:
        content = [
            {"type": "image", "image": image.convert("RGB")},
            {"type": "text", "text": question.question},
        ]
    return Conversation(({"role": "user", "content": content},))


def settings() -> ModelSettings:
    loaded = ModelSettings.load(DIGITS.path)
    assert loaded is not None
    return loaded
