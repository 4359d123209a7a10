"""Batches of a supervised step as tensors: a function of (recipe, step) and nothing else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Tokenizer

from mirl_core.tasks.worlds import digits, easy_vqa
from mirl_core.training.recipe import Recipe
from mirl_core.training.sft import text
from mirl_core.training.sft.model import preprocess
from mirl_core.training.sft.rows import Mix, SFTRow, digits_row, draw_training_scene, easy_vqa_row

_CHUNKS = 4
_STAGES = {"lm": 1, "vision": 2, "joint": 3}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Rows as padded ids; `kind` marks each *target* position: 0 nothing, 1 description, 2 reasoning and
    answer."""

    ids: torch.Tensor
    """[rows, length] int64."""
    kind: torch.Tensor
    """[rows, length - 1] int64: what the token at position + 1 is for the loss."""
    owner: torch.Tensor
    """[rows] int64: each row's picture, -1 for none."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures with the truth that the auxiliary heads learn; digits scenes first, then easy-VQA."""

    pixels: torch.Tensor
    """[n, 3, 64, 64] in -1..1."""
    digit: torch.Tensor
    """[digits scenes, 4 cells] 0..9, 10 for an empty cell."""
    colour: torch.Tensor
    """[digits scenes, 4 cells] 0..3, -100 for an empty cell."""
    shape: torch.Tensor
    """[easy-VQA pictures, 2]: shape and colour."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows in chunks of similar length (less padding; the loss is over all of them), and their pictures."""

    chunks: tuple[Tokens, ...]
    pictures: Pictures | None


def tokenize(rows: Sequence[SFTRow], tokenizer: Tokenizer, all_descriptions: bool = False) -> Tokens:
    """Ids exactly as the server renders them; corrupted descriptions are marked 0 unless
    `all_descriptions`."""
    pieces = [[e.ids for e in tokenizer.encode_batch([r.prompt, r.description, r.rest])] for r in rows]
    length = max(sum(map(len, p)) for p in pieces)
    ids = np.full((len(rows), length), tokenizer.token_to_id(text.PAD), np.int64)
    kind = np.zeros((len(rows), length), np.int64)
    for i, (row, (prompt, description, rest)) in enumerate(zip(rows, pieces, strict=True)):
        a, b = len(prompt), len(prompt) + len(description)
        ids[i, : b + len(rest)] = prompt + description + rest
        kind[i, a:b] = 1 if row.learn_description or all_descriptions else 0
        kind[i, b : b + len(rest)] = 2
    owner = np.array([-1 if r.picture is None else r.picture for r in rows], np.int64)
    return Tokens(torch.from_numpy(ids), torch.from_numpy(kind[:, 1:].copy()), torch.from_numpy(owner))


def picture_tensors(scenes: Sequence[digits.Scene], shown: Sequence[easy_vqa.Picture]) -> Pictures:
    """Draw scenes, load pictures, and put their truth beside them."""
    digit = np.full((len(scenes), 4), 10, np.int64)
    colour = np.full((len(scenes), 4), -100, np.int64)
    for i, scene in enumerate(scenes):
        for thing in scene.objects:
            digit[i, thing.cell], colour[i, thing.cell] = thing.digit, thing.colour
    shape = np.array(
        [
            [
                easy_vqa.SHAPES.index(p.appearance.shape or ""),
                easy_vqa.COLOURS.index(p.appearance.colour or ""),
            ]
            for p in shown
        ],
        np.int64,
    ).reshape(-1, 2)
    drawn = [digits.render(scenes)] if scenes else []
    loaded = [np.stack([easy_pixels(p) for p in shown])] if shown else []
    pixels = np.concatenate(drawn + loaded)
    return Pictures(
        preprocess(pixels), torch.from_numpy(digit), torch.from_numpy(colour), torch.from_numpy(shape)
    )


@functools.cache
def easy_pixels(picture: easy_vqa.Picture) -> np.ndarray:
    """[64, 64, 3] uint8, decoded once per process."""
    return np.asarray(picture.image(), np.uint8)


def _jitter(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """easy-VQA pictures shifted by up to 4 pixels over their own ground, so that 3,800 of them last."""
    out = []
    for picture in pixels:
        dy, dx = (int(v) for v in rng.integers(-4, 5, 2))
        out.append(torch.roll(picture, (dy, dx), (1, 2)))
    return torch.stack(out)


def draw_batch(recipe: Recipe, tokenizer: Tokenizer, step: int) -> Batch:
    """The training batch of one step."""
    rng = np.random.default_rng([recipe.seed, _STAGES[recipe.stage], step])
    mix = Mix(recipe.corrupted, recipe.ambiguous, recipe.slips, recipe.smallest)
    published = easy_vqa.pictures("train")
    base = (_STAGES[recipe.stage] * 1_000_000 + step) * 1_000
    pictures, rows = None, []
    if recipe.stage != "lm":
        scenes = [draw_training_scene(mix, base + i, rng) for i in range(recipe.digits_images)]
        shown = [published[int(rng.integers(len(published)))] for _ in range(recipe.easy_images)]
        pictures = picture_tensors(scenes, shown)
        if shown:
            pictures.pixels[len(scenes) :] = _jitter(pictures.pixels[len(scenes) :], rng)
        if recipe.stage == "joint":
            for n in range(len(scenes) + len(shown)):
                for k in range(recipe.rows_per_image):
                    wrong = k == recipe.rows_per_image - 1 and bool(rng.random() < recipe.corrupted)
                    if n < len(scenes):
                        rows.append(digits_row(scenes[n], mix, rng, n, wrong))
                    else:
                        rows.append(easy_vqa_row(shown[n - len(scenes)], mix, rng, n, wrong))
            if recipe.describe_only:
                rows = [dataclasses.replace(row, rest="") for row in rows]
    for i in range(recipe.text_rows):
        wrong = bool(rng.random() < recipe.corrupted_text)
        if rng.random() < 0.2:
            rows.append(easy_vqa_row(published[int(rng.integers(len(published)))], mix, rng, None, wrong))
        else:
            rows.append(digits_row(draw_training_scene(mix, base + 500 + i, rng), mix, rng, None, wrong))
    if not rows:
        return Batch((), pictures)
    rows.sort(key=lambda r: (r.picture is not None, len(r.prompt) + len(r.description) + len(r.rest)))
    edges = np.linspace(0, len(rows), min(_CHUNKS, len(rows)) + 1).astype(int)
    return Batch(tuple(tokenize(rows[a:b], tokenizer) for a, b in pairwise(edges)), pictures)
