"""Scenes of the charts world: the fruit that a market stall sold on one day, and the style of its chart.

A scene is a function of one seed per (kind, part, index). Everything is drawn in this order:

1. *Day*: uniform over `DAYS`. The picture does not show it; the question names it.
2. *Fruits*: three to six of `FRUITS`, in random order along the axis.
3. *Values*: from the **language prior** of (day, fruit): the usual value with the kind's probability (0.75
   in training), otherwise a value that differs by one to four, uniform over those within 1 to 20.
4. *Second readings* (kind `ambiguous`): a column ends in a half-transparent part between two readings two
   to four apart. The part's opacity is the likelihood that the upper reading is the truth, so
   `value_posterior` is exact.
5. *Style*: ground, margins, gaps, palette, grid, line width, blur and pixel noise; the same law for every
   part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Kind = Literal["iid", "half", "quarter", "shifted", "ambiguous"]
Part = Literal["train", "dev", "test"]

KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS: tuple[Part, ...] = get_args(Part)
FRUITS = ("apples", "oranges", "lemons", "limes", "berries", "grapes")
DAYS = ("Monday", "Wednesday", "Friday", "Sunday")
LARGEST = 20
"""Values are 1 to this."""
USUAL: tuple[tuple[int, ...], ...] = (
    (14, 9, 5, 6, 8, 11),
    (13, 12, 7, 4, 10, 6),
    (16, 8, 9, 7, 5, 13),
    (18, 15, 6, 11, 12, 9),
)
"""[day][fruit]: the value with the highest prior probability."""
USUAL_PROBABILITY: dict[Kind, float] = {
    "iid": 0.75,
    "half": 0.5,
    "quarter": 0.25,
    "shifted": 0.0,
    "ambiguous": 0.75,
}
DEVIATIONS = (-4, -3, -2, -1, 1, 2, 3, 4)
COUNT_PROBABILITIES = (0.1, 0.25, 0.35, 0.3)
"""Probabilities of three, four, five and six columns."""
AMBIGUOUS_SHARE = 0.6
OPACITY_RANGE = (0.35, 0.65)
_SEED = 20261128


@dataclass(frozen=True, slots=True)
class Column:
    """One fruit's column; `value` is the truth."""

    fruit: int
    value: int
    other: int | None = None
    """The second reading of an ambiguous column."""
    opacity: float = 1.0
    """Opacity of the part between the two readings, 0 to 1."""
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB offset from the fruit's colour, in shares of full brightness."""


@dataclass(frozen=True, slots=True)
class Style:
    """The look of a chart; lengths are in pixels."""

    dark: bool
    ground: float
    """Brightness of the background, 0 to 1."""
    left: float
    right: float
    top: float
    """Height of the line of the largest value, from the picture's upper edge."""
    bottom: float
    """Height of the axis, from the picture's upper edge."""
    gap: float
    """Empty share of a column's slot, 0 to 1."""
    grid: float
    """Opacity of the grid lines, 0 to 1."""
    line: int
    """Width of the axis."""
    labels: bool
    """Whether the axis has numbers."""
    outline: float
    """Opacity of the columns' outlines, 0 to 1."""
    blur: float
    """Strength of the blur; at 1 each neighbour of a pixel has weight 1/4."""
    noise: float
    """Standard deviation of the pixel noise, in shares of full brightness."""
    noise_seed: int
    """Seed of the pixel noise."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One chart's truth, columns from left to right, and everything needed to draw it again."""

    kind: Kind
    part: Part
    index: int
    day: int
    columns: tuple[Column, ...]
    style: Style

    @property
    def name(self) -> str:
        """Return the scene's name, unique in the world."""
        return f"charts-{self.kind}-{self.part}-{self.index:06d}"


def value_prior(day: int, fruit: int, usual: float = USUAL_PROBABILITY["iid"]) -> npt.NDArray[np.float64]:
    """Return the prior p(value | day, fruit): [LARGEST + 1]; the usual value has probability `usual`."""
    table = np.zeros(LARGEST + 1)
    centre = USUAL[day][fruit]
    others = [centre + d for d in DEVIATIONS if 1 <= centre + d <= LARGEST]
    table[others] = (1.0 - usual) / len(others)
    table[centre] = usual
    return table


def value_posterior(
    column: Column, day: int, usual: float = USUAL_PROBABILITY["iid"]
) -> npt.NDArray[np.float64]:
    """Return the exact p(value | day, a picture read without error): [LARGEST + 1]."""
    likelihood = np.zeros(LARGEST + 1)
    if column.other is None:
        likelihood[column.value] = 1.0
    else:
        low, high = sorted((column.value, column.other))
        prior = value_prior(day, column.fruit, usual)
        # The second reading is uniform over those two to four apart, so each truth has that share.
        likelihood[high] = prior[high] * column.opacity / len(_rivals(high))
        likelihood[low] = prior[low] * (1.0 - column.opacity) / len(_rivals(low))
    total = likelihood.sum()
    return np.asarray(likelihood / total) if total else value_posterior(column, day, 0.5)


def _rivals(value: int) -> list[int]:
    return [value + d for d in DEVIATIONS if abs(d) >= 2 and 1 <= value + d <= LARGEST]


def draw_scene(kind: Kind, part: Part, index: int) -> Scene:
    """Draw the scene of this kind, part and index: the same on every machine and in every order of calls."""
    rng = np.random.default_rng([_SEED, KINDS.index(kind), PARTS.index(part), index])
    day = int(rng.integers(len(DAYS)))
    count = 3 + int(rng.choice(4, p=COUNT_PROBABILITIES))
    fruits = [int(f) for f in rng.permutation(len(FRUITS))[:count]]
    ambiguous = rng.random(count) < AMBIGUOUS_SHARE
    ambiguous[rng.integers(count)] = True
    columns = []
    for fruit, is_ambiguous in zip(fruits, ambiguous, strict=True):
        value = int(rng.choice(LARGEST + 1, p=value_prior(day, fruit, USUAL_PROBABILITY[kind])))
        tint = tuple(float(t) for t in rng.normal(0.0, 0.05, 3))
        other, opacity = None, 1.0
        if kind == "ambiguous" and is_ambiguous:
            other = int(rng.choice(_rivals(value)))
            while True:
                opacity = float(rng.uniform(*OPACITY_RANGE))
                if rng.random() < (opacity if value > other else 1.0 - opacity):
                    break
        columns.append(Column(fruit, value, other, opacity, (tint[0], tint[1], tint[2])))
    return Scene(kind, part, index, day, tuple(columns), _draw_style(rng))


def _draw_style(rng: np.random.Generator) -> Style:
    dark = bool(rng.random() < 0.3)
    labels = bool(rng.random() < 0.7)
    return Style(
        dark=dark,
        ground=float(rng.uniform(0.04, 0.2) if dark else rng.uniform(0.86, 1.0)),
        left=float(rng.uniform(9.0, 12.0) if labels else rng.uniform(3.0, 10.0)),
        right=float(rng.uniform(58.0, 63.0)),
        top=float(rng.uniform(3.0, 8.0)),
        bottom=float(rng.uniform(56.0, 62.0)),
        gap=float(rng.uniform(0.05, 0.45)),
        grid=float(rng.uniform(0.08, 0.35)),
        line=1 + int(rng.random() < 0.4),
        labels=labels,
        outline=float(rng.uniform(0.0, 0.5)) if rng.random() < 0.4 else 0.0,
        blur=float(rng.uniform(0.0, 0.6)),
        noise=float(rng.uniform(0.0, 0.09)),
        noise_seed=int(rng.integers(2**31)),
    )


def scenes(kind: Kind, part: Part, count: int, start: int = 0) -> Iterator[Scene]:
    """Iterate over `count` scenes of one kind and part, from index `start`."""
    return (draw_scene(kind, part, i) for i in range(start, start + count))
