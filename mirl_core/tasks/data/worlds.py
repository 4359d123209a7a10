"""The bundled worlds as data sets: the questions of the model's report, with judges of descriptions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mirl_core.errors import ConfigError
from mirl_core.tasks.content import drawing_bytes
from mirl_core.tasks.questions import DataSet, Question
from mirl_core.tasks.worlds import digits, easy_vqa
from mirl_core.tasks.worlds.cases import WorldCase, digits_cases, easy_family, easy_judge
from mirl_core.tasks.worlds.charts import drawing as charts_drawing
from mirl_core.tasks.worlds.charts import scenes as charts
from mirl_core.tasks.worlds.charts.cases import charts_cases

NAMES = (
    *(f"digits/{kind}" for kind in digits.KINDS),
    *(f"charts/{kind}" for kind in charts.KINDS),
    "easy-vqa",
)
PARTS: tuple[digits.Part, ...] = ("dev", "test")
"""Parts for evaluation; the bundled models have seen `train`."""
SCENES = 1000
"""Number of charts or digits scenes without a limit: these worlds have no end."""
_TRAINING_SCENES = 1_000_000
_SEED = 929


def open_world(name: str, part: str, limit: int | None, seed: int) -> DataSet:
    """Return a world's questions.

    Charts and digits: one question on each of the part's first `limit` scenes; the world fixes their seed.
    easy-VQA: the first `limit` of the published questions, in an order by `seed` in which every picture comes
    once before any comes twice. A larger limit only appends.

    Raises:
        ConfigError: there is no such part.
    """
    chosen = next((known for known in PARTS if known == part), None)
    if chosen is None:
        raise ConfigError(f"{name} has no part '{part}'; there are: {', '.join(PARTS)}", param="part")
    if name == "easy-vqa":
        pictures = easy_vqa.pictures(chosen)
        order = easy_order(pictures, np.random.default_rng([_SEED, seed]))[:limit]
        return DataSet(name, part, tuple(easy_question(pictures[index], number) for index, number in order))
    draw = charts_cases if name.startswith("charts/") else digits_cases
    cases = draw(name.replace("/", "-"), chosen, SCENES if limit is None else limit)
    return DataSet(name, part, tuple(_scene_question(case) for case in cases))


def _scene_question(case: WorldCase) -> Question:
    return Question(
        key=case.clusters[0],
        text=case.question,
        answer=case.answer,
        image=lambda: case.image,
        family=case.family,
        clusters=case.clusters,
        describes=case.judge,
        stored=lambda: [drawing_bytes(case.drawing)],
    )


def easy_order(pictures: Sequence[easy_vqa.Picture], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return (picture, number of its question) in an order with every picture once before any twice."""
    placed = [
        (round_, turn, int(index), int(number))
        for turn, index in enumerate(rng.permutation(len(pictures)))
        for round_, number in enumerate(rng.permutation(len(pictures[index].questions)))
    ]
    return [(index, number) for _, _, index, number in sorted(placed)]


def easy_question(picture: easy_vqa.Picture, number: int) -> Question:
    """Return the picture's published question `number`."""
    text, answer = picture.questions[number]
    return Question(
        key=f"{picture.name}-{number:02d}",
        text=text,
        answer=answer,
        image=picture.image,
        family=easy_family(answer),
        clusters=(picture.name,),
        describes=easy_judge(picture, text),
    )


def references(name: str, count: int, seed: int) -> tuple[Image.Image, ...]:
    """Draw pictures for the `reference` estimator from the world's *training* pictures.

    All data sets of charts, and all of digits, get pictures of `iid` scenes: a deployment has such pictures
    before it meets an unknown shift.

    Raises:
        ConfigError: `name` is no world, and so has no training pictures; or `count` is out of range.
    """
    if name not in NAMES:
        raise ConfigError(
            f"{name} has no training pictures for the `reference` estimator; use the estimators text and "
            f"blank, or a world: {', '.join(NAMES)}",
            param="estimators",
        )
    if not 1 <= count <= 1000:
        raise ConfigError(f"references: {count} pictures; give 1 to 1000", param="references")
    rng = np.random.default_rng([_SEED, 1, seed])
    if name == "easy-vqa":
        pictures = easy_vqa.pictures("train")
        return tuple(pictures[index].image() for index in _draw(rng, len(pictures), count))
    indices = _draw(rng, _TRAINING_SCENES, count)
    if name.startswith("charts/"):
        drawn = charts_drawing.render([charts.draw_scene("iid", "train", index) for index in indices])
    else:
        drawn = digits.render([digits.draw_scene("iid", "train", index) for index in indices])
    return tuple(Image.fromarray(picture) for picture in drawn)


def _draw(rng: np.random.Generator, total: int, count: int) -> list[int]:
    return [int(index) for index in rng.choice(total, size=count, replace=False)]
