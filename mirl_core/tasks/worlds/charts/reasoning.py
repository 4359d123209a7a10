"""Written solutions of a chart question, from a description alone, in several valid orders and methods.

A solution names its order first, then uses the values in that order; an addition or subtraction of larger
numbers is split by tens and units or at a round number. Every solution is right, so a wrong chain is an error
of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from mirl_core.tasks.worlds.charts.language import Question, Reading, imply
from mirl_core.tasks.worlds.charts.scenes import FRUITS, LARGEST


def reason(question: Question, reading: Reading, rng: np.random.Generator) -> tuple[str, str]:
    """Write a solution of the question from a reading; return its text and its answer.

    Raises:
        ValueError: the reading lacks a fruit in question.
    """
    answer = imply(question, reading)
    if answer is None:
        raise ValueError("the description does not say enough to reason about the question")
    values = reading.values
    if question.family == "total":
        return _plan(question.fruits, rng, lambda order: _sum(order, values, rng)[0]), answer
    if question.family == "reach":
        bound = question.bound or 0

        def lack(order: Sequence[int]) -> str:
            text, total = _sum(order, values, rng)
            return f"{text} {_minus(bound, total, rng)}."

        return _plan(question.fruits, rng, lack), answer
    if question.family == "excess":
        return _plan(question.fruits, rng, lambda o: _excess(o, values, question.bound or 0, rng)), answer
    if question.family == "gap":
        return _gap(question.fruits, values, rng), answer
    return _difference(question, values, rng), answer


def _plan(fruits: Sequence[int], rng: np.random.Generator, write: Callable[[Sequence[int]], str]) -> str:
    """Draw an order of the fruits; return it as text with the steps in that order."""
    order = [int(f) for f in rng.permutation(list(fruits))]
    return f"order {', '.join(FRUITS[f] for f in order)}: {write(order)}"


def _sum(order: Sequence[int], values: dict[int, int], rng: np.random.Generator) -> tuple[str, int]:
    """Return running totals and the sum: `grapes 15. limes 7: 15+7=22. apples 12: 22+12, 22+10=32, 32+2=34.`
    and 34.
    """
    total = values[order[0]]
    steps = [f"{FRUITS[order[0]]} {total}."]
    for fruit in order[1:]:
        steps.append(f"{FRUITS[fruit]} {values[fruit]}: {_plus(total, values[fruit], rng)}.")
        total += values[fruit]
    return " ".join(steps), total


def _plus(a: int, b: int, rng: np.random.Generator) -> str:
    """Return `a+b` step by step; the last number is the sum."""
    tens, units = b - b % 10, b % 10
    if b < 10:
        to_round = -a % 10
        if not 0 < to_round < b or rng.random() < 0.5:
            return f"{a}+{b}={a + b}"
        return f"{a}+{b}, {a}+{to_round}={a + to_round}, {a + to_round}+{b - to_round}={a + b}"
    if units == 0:
        return f"{a}+{b}={a + b}"
    if rng.random() < 0.5:
        return f"{a}+{b}, {a}+{tens}={a + tens}, {a + tens}+{units}={a + b}"
    return f"{a}+{b}, {a}+{units}={a + units}, {a + units}+{tens}={a + b}"


def _minus(a: int, b: int, rng: np.random.Generator) -> str:
    """Return `a-b` step by step, for a >= b; the last number is the difference."""
    tens, units = b - b % 10, b % 10
    if b < 10 or units == 0:
        return f"{a}-{b}={a - b}"
    if a - units >= tens and rng.random() < 0.5:
        return f"{a}-{b}, {a}-{units}={a - units}, {a - units}-{tens}={a - b}"
    return f"{a}-{b}, {a}-{tens}={a - tens}, {a - tens}-{units}={a - b}"


def _difference(question: Question, values: dict[int, int], rng: np.random.Generator) -> str:
    """Return both totals in random order, then the larger minus the smaller."""
    parts, totals = [], []
    for n in rng.permutation(2):
        order = [int(f) for f in rng.permutation(list(question.groups[int(n)]))]
        text, total = _sum(order, values, rng)
        parts.append(f"{' + '.join(FRUITS[f] for f in order)}: {text}")
        totals.append(total)
    a, b = totals
    sign = ">" if a > b else "<" if a < b else "="
    return f"{' '.join(parts)} {a}{sign}{b}. {_minus(max(a, b), min(a, b), rng)}."


def _excess(order: Sequence[int], values: dict[int, int], bound: int, rng: np.random.Generator) -> str:
    """Return each value's excess over the bound and the running total: `apples 12>8, 12-8=4, 0+4=4. limes
    7<8, 4.`
    """
    total, steps = 0, []
    for fruit in order:
        value = values[fruit]
        if value > bound:
            more = value - bound
            difference = _minus(value, bound, rng)
            steps.append(f"{FRUITS[fruit]} {value}>{bound}, {difference}, {total}+{more}={total + more}.")
            total += more
        else:
            steps.append(f"{FRUITS[fruit]} {value}{'<' if value < bound else '='}{bound}, {total}.")
    return " ".join(steps)


def _gap(fruits: Sequence[int], values: dict[int, int], rng: np.random.Generator) -> str:
    """Return two passes in random orders, for the largest and the smallest value, then the difference."""
    parts = []
    for word in rng.permutation(["best", "worst"]):
        order = [int(f) for f in rng.permutation(list(fruits))]
        held = values[order[0]]
        steps = [f"{word}: {FRUITS[order[0]]} {held}"]
        for fruit in order[1:]:
            value = values[fruit]
            sign = ">" if value > held else "<" if value < held else "="
            held = max(held, value) if word == "best" else min(held, value)
            steps.append(f"{FRUITS[fruit]} {value}{sign}, {held}")
        parts.append("; ".join(steps) + ".")
    each = [values[f] for f in fruits]
    return f"{' '.join(parts)} {_minus(max(each), min(each), rng)}."


def exercises(count: int, rng: np.random.Generator) -> str:
    """Return `count` sums, differences and comparisons in the notation of solutions, without a chart."""
    steps = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.55:
            steps.append(f"{_plus(int(rng.integers(1, 80)), int(rng.integers(1, LARGEST + 1)), rng)}.")
        elif kind < 0.85:
            a = int(rng.integers(2, 100))
            steps.append(f"{_minus(a, int(rng.integers(1, a)), rng)}.")
        else:
            a, b = (int(v) for v in rng.integers(1, 41, 2))
            steps.append(f"{a}{'>' if a > b else '<' if a < b else '='}{b}.")
    return " ".join(steps)


_VALUE = re.compile(rf"({'|'.join(FRUITS)}) (\d{{1,2}})\b")


def follows(chain: str, reading: Reading) -> bool:
    """Return whether a chain mentions values, each with the reading's value of that fruit."""
    mentions = [(FRUITS.index(name), int(value)) for name, value in _VALUE.findall(chain)]
    return bool(mentions) and all(reading.values.get(fruit) == value for fruit, value in mentions)


_EQUATION = re.compile(r"(\d+)([+-])(\d+)=(\d+)")


def equations(chain: str) -> list[tuple[str, bool]]:
    """Return every `a+b=c` and `a-b=c` in a chain, and whether it is true."""
    out = []
    for a, sign, b, c in _EQUATION.findall(chain):
        result = int(a) + int(b) if sign == "+" else int(a) - int(b)
        out.append((f"{a}{sign}{b}={c}", result == int(c)))
    return out
