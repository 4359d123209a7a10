"""Cases on which models are measured: a picture, a question, the truth, and the clusters of shared data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mirl_core.tasks.worlds import digits, easy_vqa
from mirl_core.tasks.worlds import digits_language as language

DIGITS_SPLITS = ("digits-iid", "digits-shifted", "digits-ambiguous")
_SEED = 515


@dataclass(frozen=True, slots=True)
class WorldCase:
    """One question about one picture of a world, with judges of any description and answer."""

    split: str
    family: str
    image: Image.Image
    question: str
    answer: str
    clusters: tuple[str, ...]
    """The picture and its glyphs; cases that share any of them are not independent."""
    right_description: str
    """A true description that implies the answer."""
    wrong_description: str
    """A corrupted description; the answer that it implies differs from the truth's."""
    wrong_answer: str
    """The answer that the corrupted description implies."""
    judge: Callable[[str], bool]
    """Return whether a description is right."""
    implied: Callable[[str], str | None]
    """Return the answer that a description implies; None where it implies none."""
    scene: digits.Scene | None = None
    drawing: Any = None
    """The parameters of a drawn picture, a dataclass; None for a picture from a file."""


def digits_cases(split: str, part: digits.Part, count: int) -> list[WorldCase]:
    """Return one question on each of the split's first `count` scenes.

    Questions and descriptions are drawn by a fixed seed.
    """
    kind = next(k for k in digits.KINDS if split == f"digits-{k}")
    scenes = list(digits.scenes(kind, part, count))
    pictures = digits.render(scenes)
    rng = np.random.default_rng([_SEED, digits.KINDS.index(kind), digits.PARTS.index(part)])
    return [_digits_case(split, s, Image.fromarray(p), rng) for s, p in zip(scenes, pictures, strict=True)]


def _digits_case(split: str, scene: digits.Scene, image: Image.Image, rng: np.random.Generator) -> WorldCase:
    question = language.ask(scene, rng)
    truth = language.see(scene)
    answer = language.imply(question, language.Reading(truth)) or ""
    right = language.write_description(language.select(truth, question, rng), rng)
    wrong, other = right, answer
    while other == answer:
        reading = language.select(language.corrupt(truth, rng), question, rng)
        wrong, other = language.write_description(reading, rng), language.imply(question, reading) or answer
    glyphs = {g for t in scene.objects for g in ((t.glyph, t.other_glyph) if t.blend else (t.glyph,))}

    def judge(text: str) -> bool:
        return language.is_right(language.parse_description(text), scene, question)

    def implied(text: str) -> str | None:
        reading = language.parse_description(text)
        return None if reading is None else language.imply(question, reading)

    clusters = (scene.name, *(f"glyph-{g}" for g in sorted(glyphs)))
    return WorldCase(
        split,
        question.family,
        image,
        question.text,
        answer,
        clusters,
        right,
        wrong,
        other,
        judge,
        implied,
        scene,
        scene,
    )


def easy_cases(part: digits.Part, count: int | None = None) -> list[WorldCase]:
    """Return a part's published questions, all of them or the first `count`."""
    rng = np.random.default_rng([_SEED, 9, digits.PARTS.index(part)])
    cases = []
    for picture in easy_vqa.pictures(part):
        image = picture.image()
        cases += [_easy_case(picture, image, q, a, rng) for q, a in picture.questions]
        if count is not None and len(cases) >= count:
            break
    return cases[:count]


def _easy_case(
    picture: easy_vqa.Picture, image: Image.Image, question: str, answer: str, rng: np.random.Generator
) -> WorldCase:
    right = easy_vqa.write_description(picture.appearance, question, rng)
    wrong, other = right, answer
    while other == answer:
        wrong = easy_vqa.write_description(easy_vqa.corrupt(picture.appearance, rng), question, rng)
        appearance = easy_vqa.parse_description(wrong)
        other = (None if appearance is None else easy_vqa.imply(question, appearance)) or answer

    def implied(text: str) -> str | None:
        appearance = easy_vqa.parse_description(text)
        return None if appearance is None else easy_vqa.imply(question, appearance)

    family, judge = easy_family(answer), easy_judge(picture, question)
    return WorldCase(
        "easy-vqa", family, image, question, answer, (picture.name,), right, wrong, other, judge, implied
    )


def easy_family(answer: str) -> str:
    """Return the kind of question that has this answer."""
    return "shape" if answer in easy_vqa.SHAPES else "colour" if answer in easy_vqa.COLOURS else "yes/no"


def easy_judge(picture: easy_vqa.Picture, question: str) -> Callable[[str], bool]:
    """Return a judge of descriptions: whether they are right about the picture for the question."""
    return lambda text: easy_vqa.is_right(easy_vqa.parse_description(text), picture.appearance, question)
