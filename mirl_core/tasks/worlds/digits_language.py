"""The language about digits scenes: questions, descriptions, implied answers, and reasoning.

Answers and reasoning are functions of the description alone, never of the picture: ``imply`` and ``reason``
take a `Reading`, and `parse_description` turns any text of the language back into a reading.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mirl_core.tasks.worlds.digits import CELLS, COLOURS, Scene

Family = Literal["sum_all", "sum_colour", "count_colour", "largest", "where_largest", "more"]
FAMILIES: tuple[Family, ...] = get_args(Family)

_PHRASINGS: dict[Family, tuple[str, ...]] = {
    "sum_all": (
        "What is the sum of all digits?",
        "Add up all the digits.",
        "What do the digits add up to?",
        "What is the total of the digits?",
    ),
    "sum_colour": (
        "What is the sum of the {0} digits?",
        "Add up the {0} digits.",
        "What do the {0} digits add up to?",
    ),
    "count_colour": (
        "How many digits are {0}?",
        "How many {0} digits are there?",
        "Count the {0} digits.",
    ),
    "largest": (
        "What is the largest digit?",
        "Which digit is the largest?",
        "What is the biggest digit in the picture?",
    ),
    "where_largest": (
        "Where is the largest digit?",
        "Which cell holds the largest digit?",
        "In which corner is the biggest digit?",
    ),
    "more": (
        "Are there more {0} than {1} digits?",
        "Is the number of {0} digits larger than the number of {1} digits?",
        "Are more digits {0} than {1}?",
    ),
}

FAMILY_SHARES: dict[Family, float] = {
    "sum_all": 0.15,
    "sum_colour": 0.30,
    "count_colour": 0.20,
    "largest": 0.10,
    "where_largest": 0.10,
    "more": 0.15,
}
"""Share of each family among the questions: mostly about colours, the subject of the language prior."""

SLIP_FAMILY: Family = "sum_all"
"""The family whose written reasoning slips now and then, so that several chains of one description differ."""
TRAINING_SLIP_SHARE = 0.18
"""Share of the slip family's training chains with one wrong running total, where a recipe names no other."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a digits scene."""

    family: Family
    colours: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One digit as a description mentions it; None: not mentioned."""

    cell: int | None
    colour: int | None
    digit: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of a description: its items in order, the colours named absent, the announced count."""

    items: tuple[Item, ...]
    absent: tuple[int, ...] = ()
    count: int | None = None


def ask(scene: Scene, rng: np.random.Generator, family: Family | None = None) -> Question:
    """Draw a question that fits the scene, of the `family` or of a family drawn by its share.

    The colour in a question depends on the occupied cells and on nothing else. So a question carries no
    information about the colours in the picture, and the exact colour posterior needs no question.
    """
    cells = [t.cell for t in scene.objects]
    largest = max(t.digit for t in scene.objects)
    options = [
        f for f in FAMILIES if f != "where_largest" or [t.digit for t in scene.objects].count(largest) == 1
    ]
    shares = np.array([FAMILY_SHARES[f] for f in options])
    drawn = options[int(rng.choice(len(options), p=shares / shares.sum()))]
    chosen: Family = drawn if family is None else family
    first = int(rng.choice(cells)) if rng.random() < 0.6 else int(rng.integers(4))
    second = (first + 1 + int(rng.integers(3))) % 4
    colours: tuple[int, ...] = ()
    if chosen in ("sum_colour", "count_colour"):
        colours = (first,)
    elif chosen == "more":
        colours = (first, second) if rng.random() < 0.5 else (second, first)
    phrasing = _PHRASINGS[chosen][int(rng.integers(len(_PHRASINGS[chosen])))]
    return Question(chosen, colours, phrasing.format(*(COLOURS[c] for c in colours)))


def see(scene: Scene) -> tuple[Item, ...]:
    """Return the scene's truth as items, everything mentioned."""
    return tuple(Item(t.cell, t.colour, t.digit) for t in scene.objects)


def select(seen: Sequence[Item], question: Question, rng: np.random.Generator) -> Reading:
    """Draw the content of a description of these items: as a rule, of every item what the question is about.

    Exceptions are rare on purpose. A score per token compares descriptions fairly only while they are about
    the same attributes; a description that mentions more is no better.
    """
    count = len(seen) if rng.random() < 0.25 else None
    if rng.random() < 0.1:
        return Reading(tuple(seen), (), count)
    if question.family == "where_largest":
        return Reading(tuple(Item(i.cell, None, i.digit) for i in seen), (), count)
    if question.family in ("sum_all", "largest"):
        with_cell = rng.random() < 0.8
        return Reading(tuple(Item(i.cell if with_cell else None, None, i.digit) for i in seen), (), count)
    with_digit = question.family == "sum_colour"
    items = tuple(Item(i.cell, i.colour, i.digit if with_digit else None) for i in seen)
    if rng.random() < 0.85:
        return Reading(items, (), count)
    relevant = tuple(i for i in items if i.colour in question.colours)
    absent = tuple(c for c in question.colours if all(i.colour != c for i in relevant))
    return Reading(relevant, absent)


def write_description(reading: Reading, rng: np.random.Generator) -> str:
    """Return the reading as text, in one of three styles."""
    style = int(rng.integers(3))
    parts = []
    for item in reading.items:
        cell = None if item.cell is None else CELLS[item.cell]
        words = " ".join(
            ([COLOURS[item.colour]] if item.colour is not None else [])
            + ([str(item.digit)] if item.digit is not None else [])
        )
        if cell is None:
            parts.append(words)
        else:
            parts.append((f"{cell} {words}", f"{words} {cell}", f"{cell}: {words}")[style])
    parts += [f"no {COLOURS[c]}" for c in reading.absent]
    opening = "" if reading.count is None else f"{reading.count} digit{'s' if reading.count > 1 else ''}: "
    return opening + (", ", ", ", "; ")[style].join(parts)


_OPENING = re.compile(r"^(\d+) digits?: ")
_CELL = re.compile("|".join(CELLS))


def parse_description(text: str) -> Reading | None:
    """Return the reading of a description, or None where the text is not of the language."""
    count = None
    if opening := _OPENING.match(text):
        count = int(opening.group(1))
        text = text[opening.end() :]
    items: list[Item] = []
    absent: list[int] = []
    for part in re.split(r"[,;] ", text):
        if part.startswith("no ") and part[3:] in COLOURS:
            absent.append(COLOURS.index(part[3:]))
            continue
        cells = _CELL.findall(part)
        words = _CELL.sub("", part).replace(":", "").split()
        colours = [w for w in words if w in COLOURS]
        digits = [w for w in words if len(w) == 1 and w.isascii() and w.isdigit()]
        if len(cells) > 1 or len(colours) > 1 or len(digits) > 1 or len(colours) + len(digits) != len(words):
            return None
        if not words:
            return None
        items.append(
            Item(
                CELLS.index(cells[0]) if cells else None,
                COLOURS.index(colours[0]) if colours else None,
                int(digits[0]) if digits else None,
            )
        )
    return Reading(tuple(items), tuple(absent), count) if items or absent else None


def imply(question: Question, reading: Reading) -> str | None:
    """Return the answer that the reading implies, or None where it implies none."""
    items = reading.items
    if question.family in ("sum_all", "largest", "where_largest"):
        digits = [i.digit for i in items if i.digit is not None]
        if not items or len(digits) != len(items):
            return None
        if question.family == "sum_all":
            return str(sum(digits))
        if question.family == "largest":
            return str(max(digits))
        cell = items[digits.index(max(digits))].cell
        return None if cell is None else CELLS[cell]
    if any(i.colour is None for i in items):
        return None
    matching = {c: [i for i in items if i.colour == c] for c in question.colours}
    if not items and any(c not in reading.absent for c in question.colours):
        return None
    if question.family == "more":
        first, second = (len(matching[c]) for c in question.colours)
        return "yes" if first > second else "no"
    matches = matching[question.colours[0]]
    if question.family == "count_colour":
        return str(len(matches))
    if any(i.digit is None for i in matches):
        return None
    return str(sum(i.digit or 0 for i in matches))


def reason(question: Question, reading: Reading, slip: np.random.Generator | None = None) -> tuple[str, str]:
    """Return the written steps from a reading, and the answer that they end in.

    With `slip`, one running total of a sum is off by one or two and everything after follows it.

    Raises:
        ValueError: the reading implies no answer.
    """
    answer = imply(question, reading)
    if answer is None:
        raise ValueError("the description does not say enough to reason about the question")
    if question.family == "sum_all":
        return _add([i.digit or 0 for i in reading.items], slip)
    if question.family in ("largest", "where_largest"):
        return _climb(reading.items, question.family == "where_largest"), answer
    return _scan(reading.items, question), answer


def _scan(items: Sequence[Item], question: Question) -> str:
    """Return every item's colour with the running total or counts: `red 0+3=3, blue 3, red 3+9=12`."""
    steps, total, counts = [], 0, [0] * len(question.colours)
    for item in items:
        relevant = item.colour in question.colours
        before = total
        if relevant:
            counts[question.colours.index(item.colour or 0)] += 1
            total += item.digit or 0
        if question.family == "sum_colour":
            state = f"{before}+{item.digit}={total}" if relevant else str(total)
        else:
            state = "-".join(map(str, counts))
        steps.append(f"{COLOURS[item.colour or 0]} {state}")
    if question.family == "more":
        first, second = counts
        steps.append(f"{first}{'>' if first > second else '<' if first < second else '='}{second}")
    return ", ".join(steps) or "none"


def _add(digits: Sequence[int], slip: np.random.Generator | None) -> tuple[str, str]:
    total, steps = digits[0], [f"start {digits[0]}"]
    wrong = int(slip.integers(1, len(digits))) if slip is not None and len(digits) > 1 else 0
    for n, digit in enumerate(digits[1:], 1):
        result = total + digit
        if n == wrong and slip is not None:
            result = max(0, result + int(slip.choice((-2, -1, 1, 2))))
        steps.append(f"{total}+{digit}={result}")
        total = result
    return ", ".join(steps), str(total)


def _climb(items: Sequence[Item], with_cell: bool) -> str:
    """Return the steps to the largest digit: `start 3 top left, 7>3 so 7 bottom right, 2<7`."""
    best = items[0]
    steps = [f"start {best.digit}" + (f" {CELLS[best.cell]}" if with_cell and best.cell is not None else "")]
    for item in items[1:]:
        a, b = item.digit or 0, best.digit or 0
        sign = ">" if a > b else "<" if a < b else "="
        step = f"{a}{sign}{b}"
        if a > b:
            best = item
            step += f" so {a}" + (f" {CELLS[item.cell]}" if with_cell and item.cell is not None else "")
        steps.append(step)
    return ", ".join(steps)


def is_right(reading: Reading | None, scene: Scene, question: Question) -> bool:
    """Return whether everything mentioned is true and nothing that the question needs is missing."""
    if reading is None or imply(question, reading) is None:
        return False
    truth = see(scene)
    by_cell = {i.cell: i for i in truth}
    if reading.count is not None and reading.count != len(truth):
        return False
    if any(i.colour in reading.absent for i in truth):
        return False
    cells = [i.cell for i in reading.items if i.cell is not None]
    if len(set(cells)) != len(cells):
        return False
    for item in reading.items:
        if item.cell is None:
            continue
        seen = by_cell.get(item.cell)
        if seen is None or item.colour not in (None, seen.colour) or item.digit not in (None, seen.digit):
            return False
    needed = [i for i in truth if not question.colours or i.colour in question.colours]
    mentioned = [i for i in reading.items if not question.colours or i.colour in question.colours]
    if len(needed) != len(mentioned) or len(reading.items) > len(truth):
        return False
    unplaced = [i for i in reading.items if i.cell is None]
    if not unplaced:
        return True
    if any(i.colour is None for i in unplaced):
        return len(unplaced) == len(truth) and Counter(i.digit for i in unplaced) == Counter(
            i.digit for i in truth
        )
    left = Counter((i.colour, i.digit) for i in truth)
    left.subtract((i.colour, i.digit) for i in unplaced)
    return min(left.values()) >= 0


_CONFUSABLE = {
    0: (6, 8),
    1: (7, 4),
    2: (3, 8),
    3: (8, 9, 5),
    4: (9, 1),
    5: (3, 6, 9),
    6: (0, 8, 5),
    7: (1, 9),
    8: (3, 1, 9),
    9: (4, 7, 8),
}


def corrupt(seen: Sequence[Item], rng: np.random.Generator) -> tuple[Item, ...]:
    """Return a wrong view of a scene: one or two plausible or random changes, or a wholly different scene."""
    if rng.random() < 0.15:
        cells = sorted(int(c) for c in rng.permutation(4)[: 1 + int(rng.integers(4))])
        return tuple(Item(c, int(rng.integers(4)), int(rng.integers(10))) for c in cells)
    items = list(seen)
    for _ in range(1 + int(rng.random() < 0.4) + int(rng.random() < 0.2)):
        n = int(rng.integers(len(items)))
        item = items[n]
        free = [c for c in range(4) if all(i.cell != c for i in items)]
        kind = rng.random()
        if kind < 0.42:
            digit = item.digit or 0
            near = _CONFUSABLE[digit]
            new = int(rng.choice(near)) if rng.random() < 0.5 else (digit + 1 + int(rng.integers(9))) % 10
            items[n] = Item(item.cell, item.colour, new)
        elif kind < 0.84:
            items[n] = Item(item.cell, ((item.colour or 0) + 1 + int(rng.integers(3))) % 4, item.digit)
        elif kind < 0.9 and free:
            items[n] = Item(int(rng.choice(free)), item.colour, item.digit)
        elif kind < 0.95 and len(items) > 1:
            del items[n]
        elif free:
            items.append(Item(int(rng.choice(free)), int(rng.integers(4)), int(rng.integers(10))))
    return tuple(sorted(items, key=lambda i: i.cell or 0))
