"""Rows about pictures of noise, and the bundled model to train on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import rms_norm

from mirl_core.bundled import DIGITS
from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.planners.rows import Segment, TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig
from mirl_core.training.sft.model import ModelShape, build_model
from mirl_core.types import Conversation


def conversation(text: str, picture: int | None = 0) -> Conversation:
    """A question about the picture of this number, or about none."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture is not None:
        pixels = np.random.default_rng(picture).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        parts.insert(0, {"type": "image", "image": Image.fromarray(pixels)})
    return Conversation(({"role": "user", "content": parts},))


def make_row(
    prompt: Conversation, length: int, seed: int, segment: Segment = "reasoning", masked: int = 1
) -> TrainingRow:
    """A row of random tokens; the first `masked` of them are not in the loss."""
    rng = np.random.default_rng(seed)
    return TrainingRow(
        prompt,
        tuple(rng.integers(20, 600, length).tolist()),
        (False,) * masked + (True,) * (length - masked),
        tuple((-10 * rng.random(length)).tolist()),
        float(rng.normal()),
        segment,
        f"{id(prompt)}/{segment}",
    )


def make_rows() -> list[TrainingRow]:
    """Eleven uneven rows: two segments, four prompts, of which one has no picture."""
    prompts = [
        conversation("Sum?"),
        conversation("What is the largest red digit?", 1),
        conversation("Why?", None),
        conversation("Sum?", 2),
    ]
    rows = [make_row(prompts[i % 4], 3 + i, i, "description") for i in range(5)]
    return rows + [make_row(prompts[i % 4], 20 - 2 * i, 50 + i, "reasoning", masked=4) for i in range(6)]


@cache
def load_processor() -> Any:
    """The bundled model's."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(DIGITS.path)


def make_policy(
    weights: torch.dtype = torch.float32,
    prompts_once: bool | None = None,
    tiny: bool = False,
    **changes: Any,
) -> Policy:
    """The bundled model, or one of its kind that is tiny and knows nothing, with weights of this type."""
    from transformers import AutoModelForImageTextToText

    folder = DIGITS.path
    if tiny:
        shape = ModelShape(
            text_width=32, text_layers=2, text_inner=48, vision_width=32, vision_layers=1, vision_inner=32
        )
        model = build_model(shape, Tokenizer.from_file(str(folder / "tokenizer.json")), seed=3).to(weights)
    else:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=weights)
    if weights == torch.float64:
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                # transformers' own rounds to float32 in between.
                module.forward = partial(_norm, module)
    settings = OptimizerConfig(**{"learning_rate": 1e-3, **changes})
    return Policy(model, load_processor(), settings, folder=folder, prompts_once=prompts_once)


def _norm(module: Any, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, hidden.shape[-1:], module.weight, module.variance_epsilon)


def weights_of(policy: Policy) -> dict[str, Tensor]:
    """A copy of the trained weights."""
    return {name: value.detach().clone() for name, value in policy.trained().items()}


def furthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def gradients(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    """Of the trained parameters that the loss reaches."""
    trained = policy.trained()
    derivatives: Sequence[Tensor | None] = torch.autograd.grad(
        loss, list(trained.values()), retain_graph=True, allow_unused=True
    )
    return {name: value for name, value in zip(trained, derivatives, strict=True) if value is not None}
