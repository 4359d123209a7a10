"""The world of easy-VQA: the published data set's pictures, questions and split, with our descriptions.

Pictures show one shape in one colour on a light ground. The data set has questions and answers only. A
picture's content is inferred from its answers, and from its pixels where the answers are not enough.
A twentieth of the published *training* pictures (by a fixed seed) is held out as ``dev``; ``test`` is the
published test set.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mirl_core.tasks.worlds.digits import Part

if TYPE_CHECKING:
    from PIL import Image

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
_DEV_SEED = 41
_NEGATED = re.compile(r"\b(not|no)\b")
_SHAPE = re.compile(r"\b(" + "|".join(SHAPES) + r")\b")
_COLOUR = re.compile(r"\b(" + "|".join(COLOURS) + r")\b")


@dataclass(frozen=True, slots=True)
class Appearance:
    """Shape and colour in a picture or a description; None: not mentioned."""

    shape: str | None
    colour: str | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the data set with its truth and its published questions (text, answer)."""

    part: Part
    number: int
    path: str
    appearance: Appearance
    questions: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return f"easy-vqa-{self.part}-{self.number:04d}"

    def image(self) -> Image.Image:
        """Return the picture, RGB, 64 x 64."""
        from PIL import Image

        with Image.open(self.path) as file:
            return file.convert("RGB")


@functools.lru_cache(maxsize=3)
def pictures(part: Part) -> tuple[Picture, ...]:
    """Return all pictures of a part, in the order of their published numbers."""
    import easy_vqa

    published = "test" if part == "test" else "train"
    paths = getattr(easy_vqa, f"get_{published}_image_paths")()
    texts, answers, numbers = getattr(easy_vqa, f"get_{published}_questions")()
    published_questions: dict[int, list[tuple[str, str]]] = {n: [] for n in sorted(paths)}
    for text, answer, number in zip(texts, answers, numbers, strict=True):
        published_questions[number].append((text, answer))
    held_out = set(np.random.default_rng(_DEV_SEED).permutation(len(paths))[: len(paths) // 20].tolist())
    chosen = [n for n in published_questions if part == "test" or (n in held_out) == (part == "dev")]
    return tuple(
        Picture(
            part, n, paths[n], _appearance(published_questions[n], paths[n]), tuple(published_questions[n])
        )
        for n in chosen
    )


def _appearance(questions: Sequence[tuple[str, str]], path: str) -> Appearance:
    shapes, colours = set(SHAPES), set(COLOURS)
    for text, answer in questions:
        shape, colour = _SHAPE.search(text), _COLOUR.search(text)
        if answer in SHAPES or answer in COLOURS:
            shapes &= {answer} if answer in SHAPES else ({shape.group()} if shape else shapes)
            colours &= {answer} if answer in COLOURS else ({colour.group()} if colour else colours)
            continue
        present = (answer == "yes") != bool(_NEGATED.search(text))
        if shape:
            shapes = shapes & {shape.group()} if present else shapes - {shape.group()}
        if colour:
            colours = colours & {colour.group()} if present else colours - {colour.group()}
    if len(colours) > 1 or len(shapes) > 1:
        shape_seen, colour_seen = _look(path, sorted(shapes), sorted(colours))
        return Appearance(shape_seen, colour_seen)
    return Appearance(shapes.pop(), colours.pop())


_PIXELS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
}


_FILL = {"circle": 0.785, "rectangle": 1.0, "triangle": 0.5}
"""Share of its bounding box that a shape covers."""


def _look(path: str, shapes: Sequence[str], colours: Sequence[str]) -> tuple[str, str]:
    """Return the shape and the colour, among the candidates, that the pixels show."""
    from PIL import Image

    with Image.open(path) as file:
        picture = np.asarray(file.convert("RGB"), np.float64)
    ink = np.abs(picture - np.median(picture, axis=(0, 1))).sum(2) > 60
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    fill, paint = float(ink.sum() / area), np.median(picture[ink], axis=0)
    return (
        min(shapes, key=lambda s: abs(_FILL[s] - fill)),
        min(colours, key=lambda c: float(((paint - np.array(_PIXELS[c])) ** 2).sum())),
    )


def pixels(part: Part) -> npt.NDArray[np.uint8]:
    """Return all pictures of a part: [n, 64, 64, 3] RGB."""
    return np.stack([np.asarray(p.image(), np.uint8) for p in pictures(part)])


def needs(question: str) -> tuple[bool, bool]:
    """Return whether a question needs the shape, and whether it needs the colour."""
    if question.startswith("what"):
        colour = "color" in question
        return not colour, colour
    return bool(_SHAPE.search(question)), bool(_COLOUR.search(question))


def write_description(appearance: Appearance, question: str, rng: np.random.Generator) -> str:
    """Return `a red circle`, or only the attribute that the question needs."""
    shape, colour = needs(question)
    full = rng.random() < 0.7
    if appearance.shape is None or (not full and colour):
        return f"a {appearance.colour} shape"
    if appearance.colour is None or (not full and shape):
        return f"a {appearance.shape}"
    return f"a {appearance.colour} {appearance.shape}"


_DESCRIPTION = re.compile(rf"^a (?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)}|shape)$")


def parse_description(text: str) -> Appearance | None:
    """Return the content of a description, or None where the text is not of the language."""
    match = _DESCRIPTION.match(text)
    if match is None or match.group(0) == "a shape":
        return None
    return Appearance(None if match.group(2) == "shape" else match.group(2), match.group(1))


def imply(question: str, appearance: Appearance) -> str | None:
    """Return the answer that a description implies, or None where it implies none."""
    shape, colour = needs(question)
    value = appearance.shape if shape else appearance.colour
    if question.startswith("what") or value is None:
        return value
    named = (_SHAPE if shape else _COLOUR).search(question)
    assert named is not None
    assert shape != colour
    return "yes" if (value == named.group()) != bool(_NEGATED.search(question)) else "no"


def reason(question: str, appearance: Appearance) -> tuple[str, str]:
    """Return one short written step and the answer that it ends in.

    Raises:
        ValueError: the description implies no answer.
    """
    answer = imply(question, appearance)
    if answer is None:
        raise ValueError("the description does not say enough to reason about the question")
    shape, _ = needs(question)
    value = appearance.shape if shape else appearance.colour
    if question.startswith("what"):
        return f"it is {value}", answer
    named = (_SHAPE if shape else _COLOUR).search(question)
    assert named is not None
    step = f"it is {named.group()}" if value == named.group() else f"it is {value}, not {named.group()}"
    return (f"{step}; asked if not" if _NEGATED.search(question) else step), answer


def is_right(description: Appearance | None, truth: Appearance, question: str) -> bool:
    """Return whether everything mentioned is true and nothing that the question needs is missing."""
    if description is None or imply(question, description) is None:
        return False
    return description.shape in (None, truth.shape) and description.colour in (None, truth.colour)


def corrupt(appearance: Appearance, rng: np.random.Generator) -> Appearance:
    """Return a wrong view: another shape, another colour, or both."""
    kind = rng.random()
    shape = str(rng.choice([s for s in SHAPES if s != appearance.shape])) if kind < 0.6 else appearance.shape
    colour = (
        str(rng.choice([c for c in COLOURS if c != appearance.colour])) if kind > 0.4 else appearance.colour
    )
    return Appearance(shape, colour)
