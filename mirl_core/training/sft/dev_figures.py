"""Cheap figures on dev data during training, by teacher forcing: no sampling, a few seconds each.

"exact" means that greedy decoding would write the whole rest of the turn correctly, given the description.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from mirl_core.tasks.worlds import digits, easy_vqa
from mirl_core.training.sft.batches import Pictures, Tokens, picture_tensors, tokenize
from mirl_core.training.sft.model import TrainingForward
from mirl_core.training.sft.rows import Mix, digits_row, easy_vqa_row

_SCENES = 150


@functools.lru_cache(maxsize=3)
def _pictures(kind: str) -> tuple[tuple[digits.Scene, ...], tuple[easy_vqa.Picture, ...], Pictures]:
    scenes: tuple[digits.Scene, ...] = ()
    shown: tuple[easy_vqa.Picture, ...] = ()
    if kind == "easy":
        shown = easy_vqa.pictures("dev")
    else:
        scenes = tuple(digits.scenes("shifted" if kind == "shifted" else "iid", "dev", _SCENES))
    return scenes, shown, picture_tensors(scenes, shown)


def _tokens(kind: str, tokenizer: Tokenizer, image: bool, corrupted: bool) -> Tokens:
    rng = np.random.default_rng(99)
    mix = Mix(corrupted=0.0, ambiguous=0.0, slips=0.0, system=0.0, image_last=0.0)
    scenes, shown, _ = _pictures(kind)
    rows = [digits_row(s, mix, rng, n if image else None, corrupted) for n, s in enumerate(scenes)]
    rows += [easy_vqa_row(p, mix, rng, n if image else None, corrupted) for n, p in enumerate(shown)]
    return tokenize(rows, tokenizer, all_descriptions=True)


@torch.no_grad()
def measure(forward: TrainingForward, tokenizer: Tokenizer, stage: str) -> dict[str, float]:
    """Return dev figures of a stage: `_nats` are means per token or per object, the rest are shares 0
    to 1."""
    figures: dict[str, float] = {}
    for kind in ("iid", "shifted", "easy"):
        features = None
        scenes, _, pictures = _pictures(kind)
        if stage != "lm":
            features = forward.see(pictures.pixels)
            figures |= {f"dev_{kind}_{k}": v for k, v in _heads(forward, features, pictures, scenes).items()}
        if stage != "vision":
            connected = None if features is None else forward.connect(features)
            for name, corrupted in (("true", False), ("wrong", True))[: 1 if kind == "shifted" else 2]:
                tokens = _tokens(kind, tokenizer, features is not None, corrupted)
                description_nats, exact = _forced(forward, tokens, connected)
                figures[f"dev_{kind}_{name}_exact"] = exact
                figures[f"dev_{kind}_{name}_description_nats"] = description_nats
    return figures


def _forced(forward: TrainingForward, tokens: Tokens, connected: torch.Tensor | None) -> tuple[float, float]:
    logits = forward.logits(forward.speak(tokens.ids, connected, tokens.owner)[:, :-1])
    target = tokens.ids[:, 1:]
    nats = cross_entropy(logits.transpose(1, 2), target, reduction="none")
    hit = (logits.argmax(-1) == target) | (tokens.kind != 2)
    description_nats = (nats * (tokens.kind == 1)).sum(1)
    return description_nats.mean().item(), hit.all(1).float().mean().item()


def _heads(
    forward: TrainingForward, features: torch.Tensor, pictures: Pictures, scenes: tuple[digits.Scene, ...]
) -> dict[str, float]:
    if not scenes:
        shape, colour = forward.read_shape(features)
        truth = pictures.shape
        both = (shape.argmax(-1) == truth[:, 0]) & (colour.argmax(-1) == truth[:, 1])
        return {"heads_right": both.float().mean().item()}
    digit, colour = forward.read_cells(features)
    present = pictures.digit < 10
    exact = torch.tensor([digits.colour_posterior(t, "iid")[t.colour] for s in scenes for t in s.objects])
    return {
        "empty_right": ((digit.argmax(-1) < 10) == present).float().mean().item(),
        "digit_right": (digit.argmax(-1) == pictures.digit)[present].float().mean().item(),
        "digit_nats": cross_entropy(digit[present], pictures.digit[present]).item(),
        "colour_right": (colour.argmax(-1) == pictures.colour)[present].float().mean().item(),
        "colour_nats": cross_entropy(colour[present], pictures.colour[present]).item(),
        "colour_bayes_nats": float(-exact.log().mean()),
    }
