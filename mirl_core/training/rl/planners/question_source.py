"""The questions of each step: a function of recipe, seed and cursor, so that a resumed run gets the same.

An epoch is one pass in a separate order, by seed and epoch. Several sets alternate, question by question, and
an epoch ends when the smallest set has been used once; of a larger set each epoch uses another sample. The
questions that don't fill a last batch are left out of that epoch, so no question comes twice in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import WORLDS, open_data
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.recipe.config import DataConfig

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FIRST_SCENE", "TRAINING_SCENES", "DataCursor", "QuestionSource"]

TRAINING_SCENES = 20_000
"""Scenes of a charts or digits world without a `limit`."""
FIRST_SCENE = 10_000_000_000
"""Index of the first training scene. Supervised training draws between one and four thousand million; its
tokenizer and the worlds' reference pictures come from below a million."""
_SEED = 931


class _WorldQuestion(Protocol):
    """A question of any world."""

    @property
    def text(self) -> str: ...

    @property
    def family(self) -> str: ...


@dataclass(frozen=True, slots=True)
class DataCursor:
    """The position at which the next batch starts."""

    epoch: int = 0
    position: int = 0
    """Questions of the epoch that were used already."""

    def to_json(self) -> dict[str, int]:
        """Return a plain dict for JSON."""
        return {"epoch": self.epoch, "position": self.position}

    @classmethod
    def from_json(cls, values: Mapping[str, int]) -> DataCursor:
        """Return the cursor of a `to_json` dict. Raises TypeError or ValueError on other data."""
        cursor = cls(**values)
        if min(cursor.epoch, cursor.position) < 0:
            raise ValueError(f"a cursor can't be negative: {values}")
        return cursor


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions by their index, made on demand."""

    name: str
    size: int
    question: Callable[[int], Question]
    digest: str = ""
    """Of the questions: their number in a world, which never changes them; else keys, texts and answers.
    Pictures are not read for it."""


class QuestionSource:
    """Batches of questions.

    Args:
        sets: the sets that alternate.
        questions: number of questions in a batch.
        seed: of the order.

    Raises:
        ConfigError: there are fewer questions than fill one batch, or a set is named twice.
    """

    def __init__(self, sets: Sequence[QuestionSet], questions: int, seed: int) -> None:
        if len({entry.name for entry in sets}) < len(sets):
            raise ConfigError("data.sets: a set is named twice; name each once", param="data.sets")
        self._sets = tuple(sets)
        self._questions = questions
        self._seed = seed
        self._share = min(entry.size for entry in sets)
        self._orders: tuple[int, list[list[int]]] = (-1, [])
        if self.epoch_questions < questions:
            raise ConfigError(
                f"data.questions: {questions} a step, but {', '.join(entry.name for entry in sets)} hold "
                f"only {self.epoch_questions}, mixed evenly",
                param="data.questions",
            )

    @classmethod
    def open(cls, config: DataConfig, seed: int) -> QuestionSource:
        """Open the source that a recipe describes.

        Raises:
            ConfigError: a set doesn't exist, is malformed, or may not be trained on.
        """
        if config.mapping is not None and not any(name.startswith("hf:") for name in config.sets):
            raise ConfigError("data.mapping: only hf: data sets take a mapping", param="data.mapping")
        return cls([_open_set(name, config, seed) for name in config.sets], config.questions, seed)

    @property
    def digests(self) -> dict[str, str]:
        """Data set → digest of its questions."""
        return {entry.name: entry.digest for entry in self._sets}

    @property
    def epoch_questions(self) -> int:
        """Number of questions in one epoch, including those that don't fill a last batch."""
        return self._share * len(self._sets)

    def batch(self, cursor: DataCursor) -> tuple[tuple[Question, ...], DataCursor]:
        """Return the questions of the step at `cursor`, and the cursor of the next step."""
        if cursor.position + self._questions > self.epoch_questions:
            cursor = DataCursor(cursor.epoch + 1)
        positions = range(cursor.position, cursor.position + self._questions)
        orders = self._epoch_orders(cursor.epoch)
        return (
            tuple(self._question(orders, position) for position in positions),
            replace(cursor, position=positions.stop),
        )

    def _question(self, orders: Sequence[Sequence[int]], position: int) -> Question:
        turn, set_index = divmod(position, len(self._sets))
        question_set = self._sets[set_index]
        question = question_set.question(orders[set_index][turn])
        # Keys are unique within their set only.
        return (
            replace(question, key=f"{question_set.name}:{question.key}") if len(self._sets) > 1 else question
        )

    def _epoch_orders(self, epoch: int) -> list[list[int]]:
        cached_epoch, orders = self._orders
        if cached_epoch != epoch:
            orders = [
                np.random.default_rng([_SEED, self._seed, epoch, set_index])
                .permutation(question_set.size)[: self._share]
                .tolist()
                for set_index, question_set in enumerate(self._sets)
            ]
            self._orders = (epoch, orders)
        return orders


def _open_set(name: str, config: DataConfig, seed: int) -> QuestionSet:
    if name in WORLDS and config.part == "test":
        raise ConfigError(f"data.part: the test part of {name} is for reports only", param="data.part")
    if name in WORLDS and config.part == "train":
        if name == "easy-vqa":
            return _easy_vqa(config.limit, seed)
        draw = _charts_question if name.startswith("charts/") else _digits_question
        size = config.limit or TRAINING_SCENES
        return QuestionSet(name, size, partial(draw, name), str(size))
    mapping = config.mapping if name.startswith("hf:") else None
    questions = open_data(name, config.part, config.limit, seed, mapping).questions
    digest = hashlib.sha256()
    for question in questions:
        digest.update(
            repr((question.key, question.text, question.answer, question.choices)).encode(
                "utf-8", "surrogatepass"
            )
        )
    return QuestionSet(name, len(questions), questions.__getitem__, digest.hexdigest())


def _digits_question(name: str, index: int) -> Question:
    """Return a question on training scene `index` of the digits world."""
    from mirl_core.tasks.worlds import digits
    from mirl_core.tasks.worlds import digits_language as language

    kind = next(kind for kind in digits.KINDS if name == f"digits/{kind}")
    scene = digits.draw_scene(kind, "train", FIRST_SCENE + index)
    question = language.ask(scene, np.random.default_rng([_SEED, digits.KINDS.index(kind), index]))
    return _scene_question(
        scene.name,
        question,
        language.imply(question, language.Reading(language.see(scene))),
        picture=lambda: digits.render([scene])[0],
        describes=lambda text: language.is_right(language.parse_description(text), scene, question),
    )


def _charts_question(name: str, index: int) -> Question:
    """Return a question on training scene `index` of the charts world."""
    from mirl_core.tasks.worlds.charts import drawing, language, scenes

    kind = next(kind for kind in scenes.KINDS if name == f"charts/{kind}")
    scene = scenes.draw_scene(kind, "train", FIRST_SCENE + index)
    question = language.ask(scene, np.random.default_rng([_SEED, 1, scenes.KINDS.index(kind), index]))
    return _scene_question(
        scene.name,
        question,
        language.imply(question, language.Reading(tuple(language.see(scene).items()))),
        picture=lambda: drawing.render([scene])[0],
        describes=lambda text: language.is_right(language.parse_description(text), scene, question),
    )


def _scene_question(
    name: str,
    question: _WorldQuestion,
    answer: str | None,
    picture: Callable[[], npt.NDArray[np.uint8]],
    describes: Callable[[str], bool],
) -> Question:
    """Return a world's question in the form that training takes; its picture is drawn on demand."""
    assert answer is not None, "the whole truth answers every question"

    def draw() -> Image:
        from PIL import Image

        return Image.fromarray(picture())

    return Question(
        key=name,
        text=question.text,
        answer=answer,
        image=draw,
        family=question.family,
        clusters=(name,),
        describes=describes,
    )


def _easy_vqa(limit: int | None, seed: int) -> QuestionSet:
    """Return the published training questions; under a limit every picture is used once before any is used
    twice."""
    from mirl_core.tasks.data.worlds import easy_order, easy_question
    from mirl_core.tasks.worlds import easy_vqa

    pictures = easy_vqa.pictures("train")
    order = easy_order(pictures, np.random.default_rng([_SEED, seed]))[:limit]

    def question(index: int) -> Question:
        picture, number = order[index]
        return easy_question(pictures[picture], number)

    return QuestionSet("easy-vqa", len(order), question, str(len(order)))
