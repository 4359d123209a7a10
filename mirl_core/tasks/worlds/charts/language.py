"""Language of the charts world: questions, descriptions, the answers that they imply, wrong descriptions.

An answer is a function of the description alone, never of the picture: `imply` takes a `Reading`, and
`parse_description` turns any text of the language back into a reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mirl_core.tasks.worlds.charts.scenes import DAYS, FRUITS, LARGEST, Scene

Family = Literal["total", "difference", "excess", "gap", "reach"]
FAMILIES: tuple[Family, ...] = get_args(Family)

FAMILY_SHARES: dict[Family, float] = {
    "total": 0.3,
    "difference": 0.25,
    "excess": 0.15,
    "gap": 0.15,
    "reach": 0.15,
}
"""Probability of each family."""

_PHRASINGS: dict[Family, tuple[str, ...]] = {
    "total": ("On {day}, how many {all} were sold in all?", "What is {day}'s total of {all}?"),
    "difference": (
        "On {day}, how far apart are {first} and {second}?",
        "What is {day}'s difference between {first} and {second}?",
    ),
    "excess": (
        "On {day}, by how much do {all} exceed {bound}, added up?",
        "What is {day}'s sum of what {all} sold above {bound}?",
    ),
    "gap": (
        "On {day}, how far apart are the best and the worst of {all}?",
        "What is {day}'s gap between the largest and the smallest of {all}?",
    ),
    "reach": (
        "On {day}, how many more than {all} make {bound}?",
        "What does {day}'s total of {all} lack to reach {bound}?",
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question about some of a chart's fruits."""

    family: Family
    day: int
    groups: tuple[tuple[int, ...], ...]
    """The fruits in question; two groups in `difference`, otherwise one."""
    bound: int | None
    """The limit of `excess`, the target of `reach`."""
    text: str

    @property
    def fruits(self) -> tuple[int, ...]:
        """Return the fruits of all groups, in order."""
        return tuple(f for group in self.groups for f in group)


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of a description."""

    items: tuple[tuple[int, int], ...]
    """(fruit, value) in the description's order."""

    @property
    def values(self) -> dict[int, int]:
        """Return the value of each fruit."""
        return dict(self.items)


def ask(scene: Scene, rng: np.random.Generator, family: Family | None = None) -> Question:
    """Draw a question about the scene, of any family or of `family`.

    It depends on the fruits in the chart, never on their values.
    """
    shares = np.array([FAMILY_SHARES[f] for f in FAMILIES])
    random_family = FAMILIES[int(rng.choice(len(FAMILIES), p=shares / shares.sum()))]
    chosen: Family = random_family if family is None else family
    available = [int(f) for f in rng.permutation([c.fruit for c in scene.columns])]
    count = min(len(available), 3 + int(rng.random() < 0.4))
    fruits, bound = tuple(available[:count]), None
    groups: tuple[tuple[int, ...], ...] = (fruits,)
    if chosen == "difference":
        groups = (fruits[:2], fruits[2:])
    elif chosen == "excess":
        bound = int(rng.integers(3, 11))
    elif chosen == "reach":
        bound = LARGEST * count + 10 * int(rng.integers(0, 2))
    phrasing = _PHRASINGS[chosen][int(rng.integers(len(_PHRASINGS[chosen])))]
    text = phrasing.format(
        day=DAYS[scene.day],
        all=_listed(fruits),
        first=" + ".join(FRUITS[f] for f in groups[0]),
        second=" + ".join(FRUITS[f] for f in groups[-1]),
        bound=bound,
    )
    return Question(chosen, scene.day, groups, bound, text)


def _listed(fruits: Sequence[int]) -> str:
    names = [FRUITS[f] for f in fruits]
    return ", ".join(names[:-1]) + " and " + names[-1]


def see(scene: Scene) -> dict[int, int]:
    """Return the true value of each fruit, from left to right."""
    return {c.fruit: c.value for c in scene.columns}


def select(seen: Mapping[int, int], question: Question, rng: np.random.Generator) -> Reading:
    """Choose the content of a description: the fruits in question in random order, one time in five with
    another fruit.
    """
    mentioned = [f for f in question.fruits if f in seen]
    others = [f for f in seen if f not in mentioned]
    if others and rng.random() < 0.2:
        mentioned.append(int(rng.choice(others)))
    return Reading(tuple((int(f), seen[int(f)]) for f in rng.permutation(mentioned)))


def write_description(reading: Reading, rng: np.random.Generator) -> str:
    """Write the reading in one of two styles: `apples 14, limes 6` or `14 apples, 6 limes`."""
    if rng.random() < 0.5:
        return ", ".join(f"{FRUITS[f]} {v}" for f, v in reading.items)
    return ", ".join(f"{v} {FRUITS[f]}" for f, v in reading.items)


_ITEM = re.compile(rf"(?:({'|'.join(FRUITS)}) (\d{{1,2}})|(\d{{1,2}}) ({'|'.join(FRUITS)}))")


def parse_description(text: str) -> Reading | None:
    """Return the reading of a description, or None if the text is not of the language or repeats a fruit."""
    items = []
    for part in text.split(", "):
        match = _ITEM.fullmatch(part)
        if match is None:
            return None
        items.append((FRUITS.index(match[1] or match[4]), int(match[2] or match[3])))
    return Reading(tuple(items)) if len({f for f, _ in items}) == len(items) else None


def imply(question: Question, reading: Reading) -> str | None:
    """Return the answer that the reading implies, or None if it lacks a fruit in question."""
    values = reading.values
    if any(f not in values for f in question.fruits):
        return None
    sums = [sum(values[f] for f in group) for group in question.groups]
    bound = question.bound or 0
    if question.family == "total":
        return str(sums[0])
    if question.family == "difference":
        return str(abs(sums[0] - sums[1]))
    if question.family == "reach":
        return str(bound - sums[0])
    each = [values[f] for f in question.fruits]
    if question.family == "gap":
        return str(max(each) - min(each))
    return str(sum(max(0, v - bound) for v in each))


def is_right(reading: Reading | None, scene: Scene, question: Question) -> bool:
    """Return whether every value in the reading is true and no fruit in question is missing."""
    if reading is None or imply(question, reading) is None:
        return False
    truth = see(scene)
    return all(truth.get(f) == v for f, v in reading.items)


def corrupt(seen: Mapping[int, int], rng: np.random.Generator) -> dict[int, int]:
    """Return wrong values: some moved by one to four, two swapped, or all drawn at random.

    By chance the result may equal `seen`.
    """
    values = dict(seen)
    fruits = list(values)
    kind = rng.random()
    if kind < 0.4:
        return {f: int(rng.integers(1, LARGEST + 1)) for f in fruits}
    if kind < 0.55:
        a, b = (int(f) for f in rng.permutation(fruits)[:2])
        values[a], values[b] = values[b], values[a]
    for fruit in rng.permutation(fruits)[: 1 + int(rng.integers(2))]:
        moved = values[int(fruit)] + int(rng.choice((-4, -3, -2, -1, 1, 2, 3, 4)))
        values[int(fruit)] = min(LARGEST, max(1, moved))
    return values
