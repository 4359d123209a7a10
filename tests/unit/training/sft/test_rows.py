"""Rows and batches: what is learned, what is masked, and that they come from their seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from mirl_core.bundled import DIGITS
from mirl_core.tasks.worlds import digits
from mirl_core.training.recipe import Recipe
from mirl_core.training.sft.batches import draw_batch, tokenize
from mirl_core.training.sft.rows import Mix, digits_row, draw_training_scene

MIX = Mix(corrupted=0.5, ambiguous=0.15, slips=0.18)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DIGITS.path / "tokenizer.json"))


def _recipe(**changes: object) -> Recipe:
    base: dict[str, object] = {"stage": "joint", "steps": 2, "output": Path("unused"), "digits_images": 6}
    return Recipe.model_validate({**base, "easy_images": 2, "text_rows": 4, "corrupted": 1.0, **changes})


def test_a_batch_depends_on_recipe_and_step_alone(tokenizer: Tokenizer) -> None:
    first, again = (draw_batch(_recipe(), tokenizer, 5) for _ in range(2))
    other = draw_batch(_recipe(), tokenizer, 6)
    assert first.pictures is not None
    assert again.pictures is not None
    assert other.pictures is not None
    assert torch.equal(first.pictures.pixels, again.pictures.pixels)
    assert not torch.equal(first.pictures.pixels, other.pictures.pixels)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first.chunks, again.chunks, strict=True))


def test_corrupted_descriptions_are_masked_and_their_reasoning_is_not(tokenizer: Tokenizer) -> None:
    scene = next(digits.scenes("iid", "train", 1))
    rng = np.random.default_rng(0)
    rows = [digits_row(scene, MIX, rng, 0, corrupted) for corrupted in (False, True)]
    tokens = tokenize(rows, tokenizer)
    assert (tokens.kind[0] == 1).any()
    assert not (tokens.kind[1] == 1).any()
    for i, row in enumerate(rows):
        targets = tokens.ids[i, 1:][tokens.kind[i] == 2]
        assert tokenizer.decode(targets.tolist(), skip_special_tokens=False) == row.rest


def test_prompts_are_never_learned(tokenizer: Tokenizer) -> None:
    batch = draw_batch(_recipe(), tokenizer, 1)
    for tokens in batch.chunks:
        image = tokenizer.token_to_id("<image>")
        assert not ((tokens.ids[:, 1:] == image) & (tokens.kind > 0)).any()
        assert ((tokens.ids == image).sum(1) == 16).equal(tokens.owner >= 0)


def test_shifted_scenes_never_appear() -> None:
    rng = np.random.default_rng(0)
    kinds = {draw_training_scene(MIX, i, rng).kind for i in range(300)}
    assert kinds == {"iid", "ambiguous"}


def test_half_of_the_picture_rows_are_corrupted(tokenizer: Tokenizer) -> None:
    batch = draw_batch(_recipe(text_rows=0), tokenizer, 1)
    learned = [bool((k == 1).any()) for t in batch.chunks for k in t.kind]
    assert sum(learned) * 2 == len(learned) == 16
