"""Cases of the charts world: a picture, a question, the truth, and a wrong description with its answer."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mirl_core.tasks.worlds.cases import WorldCase
from mirl_core.tasks.worlds.charts import drawing, language
from mirl_core.tasks.worlds.charts.scenes import KINDS, PARTS, Part, Scene, scenes

CHARTS_SPLITS = tuple(f"charts-{kind}" for kind in KINDS)
_SEED = 515


def charts_cases(split: str, part: Part, count: int) -> list[WorldCase]:
    """Return one case for each of the split's first `count` scenes; a fixed seed draws the questions.

    Args:
        split: a name in `CHARTS_SPLITS`.
        part: train, dev or test.
        count: number of scenes.
    """
    kind = next(k for k in KINDS if split == f"charts-{k}")
    all_scenes = list(scenes(kind, part, count))
    pictures = drawing.render(all_scenes)
    rng = np.random.default_rng([_SEED, 20, KINDS.index(kind), PARTS.index(part)])
    return [_case(split, s, Image.fromarray(p), rng) for s, p in zip(all_scenes, pictures, strict=True)]


def _case(split: str, scene: Scene, image: Image.Image, rng: np.random.Generator) -> WorldCase:
    question = language.ask(scene, rng)
    truth = language.see(scene)
    reading = language.select(truth, question, rng)
    answer = language.imply(question, reading) or ""
    right = language.write_description(reading, rng)
    wrong, other = right, answer
    while other == answer:
        reading = language.select(language.corrupt(truth, rng), question, rng)
        wrong, other = language.write_description(reading, rng), language.imply(question, reading) or answer

    def judge(text: str) -> bool:
        return language.is_right(language.parse_description(text), scene, question)

    def implied(text: str) -> str | None:
        reading = language.parse_description(text)
        return None if reading is None else language.imply(question, reading)

    return WorldCase(
        split=split,
        family=question.family,
        image=image,
        question=question.text,
        answer=answer,
        clusters=(scene.name,),
        right_description=right,
        wrong_description=wrong,
        wrong_answer=other,
        judge=judge,
        implied=implied,
        drawing=scene,
    )
