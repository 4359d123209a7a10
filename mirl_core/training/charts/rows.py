"""Rows of the charts world for supervised training, drawn by seed.

Guarantees: a row is a function of its random generator; corrupted descriptions are never learned
(`learn_description` is False) and the reasoning follows them as written; only `iid` and `ambiguous` scenes
appear.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mirl_core.tasks.worlds.charts import drawing, language, reasoning
from mirl_core.tasks.worlds.charts.scenes import FRUITS, LARGEST, Kind, Scene, draw_scene
from mirl_core.training.charts.recipe import ChartsRecipe
from mirl_core.training.sft.rows import SYSTEM_PROMPTS, SFTRow
from mirl_core.training.sft.text import (
    END,
    FAKE_IMAGE,
    GLOBAL_IMAGE,
    IMAGE_TOKENS,
    render_prompt,
    render_trajectory,
)

FILLER = " chart"
MISSING, ABSENT = " some", " no"
_GENERAL = """the quick brown fox jumps over the lazy dog. Please describe what you can see in this picture, and tell me
how many things there are, where they stand, which one is different, and why. Is it true or false? Thank you very much!
Hello, who are you? I do not know the answer to that question. Write a short sentence about an image with one or more
objects. The answer is one of: A, B, C, D. First think about it step by step, then give only the final answer as JSON."""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Example:
    """A scene with its picture."""

    scene: Scene
    pixels: npt.NDArray[np.uint8]
    """[64, 64, 3]."""


@functools.lru_cache(maxsize=30_000)
def training_scene(kind: Kind, index: int) -> Scene:
    """Return a training scene, drawn once per process."""
    return draw_scene(kind, "train", index)


@functools.lru_cache(maxsize=30_000)
def training_picture(kind: Kind, index: int) -> Example:
    """Return a training scene with its picture, drawn once per process."""
    scene = training_scene(kind, index)
    return Example(scene, drawing.render([scene])[0])


def choose(recipe: ChartsRecipe, rng: np.random.Generator) -> tuple[Kind, int]:
    """Draw kind and index of a training scene."""
    kind: Kind = "ambiguous" if rng.random() < recipe.ambiguous else "iid"
    return kind, int(rng.integers(recipe.pool))


def table_words(values: Mapping[int, int]) -> list[str]:
    """Return the 16 words of a table, one for each image token: every fruit's name and value, then filler."""
    words = []
    for n, fruit in enumerate(FRUITS):
        words += [f" {fruit}", f" {values[n]}" if n in values else ABSENT]
    return words + [FILLER] * (IMAGE_TOKENS - len(words))


def rough_table(values: Mapping[int, int], rough: float, rng: np.random.Generator) -> str:
    """Write a table in which some values are off by one or two and some are missing.

    `rough` is the probability that an entry is drawn to be rough; three in ten of those are missing.
    """
    words = table_words(values)
    for fruit, value in values.items():
        if rng.random() < rough:
            kind = rng.random()
            off = 1 if kind < 0.5 else 2 if kind < 0.7 else 0
            near = value + (off if rng.random() < 0.5 else -off)
            words[2 * fruit + 1] = f" {min(LARGEST, max(1, near))}" if off else MISSING
    return "".join(words)


def picture_row(
    scene: Scene, rng: np.random.Generator, picture: int, corrupted: bool, describe_only: bool
) -> SFTRow:
    """Make a row about a picture; with `corrupted`, its description is wrong and is not learned."""
    question, description, rest = _turn(scene, rng, corrupted)
    system = str(rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.03 else None
    prompt = render_prompt(question, True, system)
    return SFTRow(prompt, description, "" if describe_only else rest, not corrupted, picture)


def text_row(scene: Scene, rng: np.random.Generator, corrupted: bool, table: bool, rough: float) -> SFTRow:
    """Make an image-free row; with `table`, its prompt has a written table in the picture's position."""
    question, description, rest = _turn(scene, rng, corrupted)
    system = str(rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.03 else None
    if table:
        prompt = table_prompt(question, language.see(scene), rough, rng, system)
    else:
        prompt = render_prompt(question, False, system)
    return SFTRow(prompt, description, rest, not corrupted)


def exercise_row(rng: np.random.Generator) -> SFTRow:
    """Make a row of exercises in arithmetic, without a chart."""
    return SFTRow(
        render_prompt("Exercises.", False), "", f"<think>{reasoning.exercises(8, rng)}</think>{END}", True
    )


def table_prompt(
    question: str,
    values: Mapping[int, int],
    rough: float,
    rng: np.random.Generator,
    system: str | None = None,
) -> str:
    """Return a prompt with a written table in the picture's position."""
    written = rough_table(values, rough, rng)
    return render_prompt(f"{FAKE_IMAGE}{GLOBAL_IMAGE}{written}{FAKE_IMAGE}{question}", False, system)


def _turn(scene: Scene, rng: np.random.Generator, corrupted: bool) -> tuple[str, str, str]:
    question = language.ask(scene, rng)
    seen: Mapping[int, int] = language.see(scene)
    if corrupted:
        seen = language.corrupt(seen, rng)
    reading = language.select(seen, question, rng)
    thought, answer = reasoning.reason(question, reading, rng)
    description, rest = render_trajectory(language.write_description(reading, rng), thought, answer)
    return question.text, description, rest


def corpus(count: int, seed: int = 7) -> list[str]:
    """Return the text on which the tokenizer is trained: rows, numbers below 100, some general English."""
    rng = np.random.default_rng(seed)
    texts = _GENERAL.split("\n") * 4
    texts += [exercise_row(rng).rest for _ in range(count // 8)]
    texts += [f"{n}+{n}={n}" for n in range(100)] * 20 + [f"is {n} or {n}" for n in range(100)] * 20
    for index in range(count):
        row = text_row(draw_scene("iid", "train", index), rng, bool(index % 2), bool(index % 3), 0.4)
        texts.append(row.prompt + row.description + row.rest)
    return texts
