"""What the tests of the engine over HTTP ask, and a policy to train on it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mirl_core.bundled import DIGITS
from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.types import Conversation

NUMBERS = itertools.count()


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def question(*images: Image.Image, text: str = "How many red digits are there?") -> Conversation:
    parts = [{"type": "image", "image": image} for image in images]
    return Conversation(({"role": "user", "content": [*parts, {"type": "text", "text": text}]},))


def context(name: str = "", **kwargs: Any) -> RequestContext:
    return RequestContext(name or f"request-{next(NUMBERS)}", **kwargs)


async def sample(
    engine: Engine,
    rendered: Rendered,
    n: int,
    sampling: Sampling,
    suffix: tuple[int, ...] = (),
) -> list[Sample]:
    samples = [s async for s in engine.generate(rendered, suffix, n, sampling, context())]
    return sorted(samples, key=lambda s: s.index)


def apart(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    assert len(a) == len(b)
    return float(np.abs(np.subtract(a, b)).max())


class Perturbed:
    """A policy whose weights are the bundled model's, all of them a little off."""

    def __init__(self, amount: float) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(DIGITS.path, dtype=torch.float32)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += amount * parameter.std() * torch.randn(parameter.shape, generator=generator)

    def save_weights(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
