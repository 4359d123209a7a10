"""Trajectories for supervised training, drawn from the worlds by seed.

Guarantees: a row is a function of its random generator; corrupted descriptions are never learned
(`learn_description` is False) and the reasoning after them follows them as written; `shifted`
scenes never appear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mirl_core.tasks.worlds import digits, easy_vqa
from mirl_core.tasks.worlds import digits_language as language
from mirl_core.training.sft.text import render_prompt, render_trajectory

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer the question about the picture.",
    "Look first, then reason.",
    "Be brief.",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the kinds of rows, each 0 to 1."""

    corrupted: float
    ambiguous: float
    slips: float
    smallest: float = digits.SIZE_RANGE[0]
    """Least size of a glyph, pixels."""
    system: float = 0.03
    image_last: float = 0.12


@dataclass(frozen=True, slots=True)
class SFTRow:
    """One conversation turn: prompt, description with tags, and the rest of the assistant's turn."""

    prompt: str
    description: str
    rest: str
    learn_description: bool
    picture: int | None = None
    """Index into the batch's pictures, None for an image-free row."""


def draw_training_scene(mix: Mix, index: int, rng: np.random.Generator) -> digits.Scene:
    """A training scene: `iid`, or now and then `ambiguous`."""
    kind: digits.Kind = "ambiguous" if rng.random() < mix.ambiguous else "iid"
    return digits.draw_scene(kind, "train", index, mix.smallest)


def digits_row(
    scene: digits.Scene, mix: Mix, rng: np.random.Generator, picture: int | None, corrupted: bool
) -> SFTRow:
    """A row about a scene; with `corrupted`, its description is wrong and is not learned."""
    question = language.ask(scene, rng)
    seen: Sequence[language.Item] = language.see(scene)
    if corrupted:
        seen = language.corrupt(seen, rng)
    reading = language.select(seen, question, rng)
    text = language.write_description(reading, rng)
    slips = question.family == language.SLIP_FAMILY and rng.random() < mix.slips
    thought, answer = language.reason(question, reading, rng if slips else None)
    return _row(question.text, text, thought, answer, mix, rng, picture, corrupted)


def easy_vqa_row(
    shown: easy_vqa.Picture, mix: Mix, rng: np.random.Generator, picture: int | None, corrupted: bool
) -> SFTRow:
    """A row about an easy-VQA picture; with `corrupted`, its description is wrong and is not learned."""
    question = shown.questions[int(rng.integers(len(shown.questions)))][0]
    appearance = easy_vqa.corrupt(shown.appearance, rng) if corrupted else shown.appearance
    text = easy_vqa.write_description(appearance, question, rng)
    said = easy_vqa.parse_description(text)
    assert said is not None
    thought, answer = easy_vqa.reason(question, said)
    return _row(question, text, thought, answer, mix, rng, picture, corrupted)


def _row(
    question: str,
    description: str,
    thought: str,
    answer: str,
    mix: Mix,
    rng: np.random.Generator,
    picture: int | None,
    corrupted: bool,
) -> SFTRow:
    system = str(rng.choice(SYSTEM_PROMPTS)) if rng.random() < mix.system else None
    prompt = render_prompt(question, picture is not None, system, rng.random() < mix.image_last)
    said, rest = render_trajectory(description, thought, answer)
    return SFTRow(prompt, said, rest, not corrupted, picture)


_GENERAL = """the quick brown fox jumps over the lazy dog. Please describe what you can see in this picture, and tell me
how many things there are, where they stand, which one is different, and why. Is it true or false? Thank you very much!
Hello, who are you? I do not know the answer to that question. Write a short sentence about an image with one or more
objects. The answer is one of: A, B, C, D. First think about it step by step, then give only the final answer as JSON."""  # noqa: E501


def corpus(count: int, seed: int = 7) -> list[str]:
    """Text on which the tokenizer is trained: both worlds' rows and a little general English."""
    rng = np.random.default_rng(seed)
    mix = Mix(corrupted=0.5, ambiguous=0.25, slips=0.2)
    texts = _GENERAL.split("\n") * 4
    shown = easy_vqa.pictures("train")
    for index in range(count):
        if index % 4 == 0:
            row = easy_vqa_row(shown[int(rng.integers(len(shown)))], mix, rng, None, bool(rng.random() < 0.5))
        else:
            row = digits_row(draw_training_scene(mix, index, rng), mix, rng, None, bool(rng.random() < 0.5))
        texts.append(row.prompt + row.description + row.rest)
    return texts
