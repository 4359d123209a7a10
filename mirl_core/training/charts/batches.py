"""Batches of a supervised step as tensors: a function of (recipe, step) alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Tokenizer

from mirl_core.tasks.worlds.charts import language
from mirl_core.tasks.worlds.charts.scenes import Scene
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.charts.rows import (
    choose,
    exercise_row,
    picture_row,
    table_words,
    text_row,
    training_picture,
    training_scene,
)
from mirl_core.training.sft.batches import Tokens, tokenize
from mirl_core.training.sft.model import preprocess

_CHUNK = 10
"""Smallest number of rows in a chunk; a smaller batch is one chunk."""


@dataclass(frozen=True, slots=True)
class ChartsBatch:
    """Rows in chunks of similar length (less padding), pictures, and the words for image tokens."""

    chunks: tuple[Tokens, ...]
    pixels: torch.Tensor | None
    """[n, 3, 64, 64] in -1..1, None without pictures."""
    words: torch.Tensor | None
    """[n, 16] token ids, None without pictures."""


def word_targets(scenes: list[Scene], tokenizer: Tokenizer) -> torch.Tensor:
    """Return the ids of the table's words that each picture's image tokens stand for: [n, 16]."""
    return torch.tensor([[tokenizer.encode(w).ids[0] for w in table_words(language.see(s))] for s in scenes])


def draw_batch(recipe: ChartsRecipe, tokenizer: Tokenizer, step: int) -> ChartsBatch:
    """Draw the training batch of one step."""
    rng = np.random.default_rng([recipe.seed, step])
    rows, pixels, words = [], None, None
    if recipe.images:
        examples = [training_picture(*choose(recipe, rng)) for _ in range(recipe.images)]
        pixels = preprocess(np.stack([e.pixels for e in examples]))
        words = word_targets([e.scene for e in examples], tokenizer)
        for n, example in enumerate(examples):
            for k in range(recipe.rows_per_image):
                wrong = k == recipe.rows_per_image - 1 and bool(rng.random() < recipe.corrupted)
                rows.append(picture_row(example.scene, rng, n, wrong, recipe.describe_only))
    for _ in range(recipe.text_rows):
        if rng.random() < recipe.exercises:
            rows.append(exercise_row(rng))
            continue
        scene = training_scene(*choose(recipe, rng))
        wrong, table = bool(rng.random() < recipe.corrupted_text), bool(rng.random() < recipe.tables)
        rows.append(text_row(scene, rng, wrong, table, recipe.rough))
    rows.sort(key=lambda r: (r.picture is not None, len(r.prompt) + len(r.description) + len(r.rest)))
    if not rows:
        return ChartsBatch((), pixels, words)
    edges = np.linspace(0, len(rows), max(1, len(rows) // _CHUNK) + 1).astype(int)
    return ChartsBatch(tuple(tokenize(rows[a:b], tokenizer) for a, b in pairwise(edges)), pixels, words)
