"""Runs as curves: accuracy against cost, and the cost at which an accuracy is first reached."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mirl_core.errors import ConfigError
from mirl_core.tasks.resampling import Resampling
from mirl_core.training.recipe import read_yaml
from mirl_core.training.rl.dev_evaluation import DEV_QUESTIONS, DEV_RESULTS
from mirl_core.training.rl.report.monitor import read_lines

__all__ = [
    "ALL",
    "COSTS",
    "Curve",
    "Group",
    "Reach",
    "RunData",
    "at_cost",
    "first_reach",
    "groups_of",
    "reach",
    "read_run",
]

Array = npt.NDArray[np.float64]

ALL = "all sets"
"""All questions of all data sets together."""
COSTS = {
    "complete_trajectories": "complete trajectories",
    "generated_tokens": "generated tokens",
    "tokens": "generated + scored tokens",
    "seconds": "seconds of training",
}
"""What a look's totals tell, and its name."""
_SAME = ("seed", "output", "log", "checkpoint", "assumed_parameters")
"""Keys in which runs of one group may differ."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What one run has written."""

    folder: Path
    recipe: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    dev_lines: Sequence[Mapping[str, Any]]
    questions: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Equal for runs that differ only in their seed."""
        return json.dumps({k: v for k, v in self.recipe.items() if k not in _SAME}, sort_keys=True)

    @property
    def label(self) -> str:
        """The folder's name without the seed; of `NAME/seed-0` it is NAME."""
        name = self.folder.resolve().name
        if re.fullmatch(r"s(eed)?[-_]?\d+", name):
            return self.folder.resolve().parent.name
        return re.sub(r"[-_.]s(eed)?[-_]?\d+$", "", name)


@dataclass(frozen=True, slots=True)
class Curve:
    """One group on one data set, at every look that all its runs have."""

    keys: tuple[str, ...]
    clusters: tuple[tuple[str, ...], ...]
    steps: tuple[int, ...]
    costs: Mapping[str, Array]
    """[runs, looks] by the names in `COSTS`."""
    right: Array
    """[runs, looks, questions]: 1 where the answer was right."""
    described: Array | None
    """[runs, looks, questions]: 1 where the description was right; None where the data set can't tell."""

    def cost(self, name: str) -> Array:
        """[looks]: mean over runs."""
        return np.asarray(self.costs[name].mean(axis=0))


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    label: str
    runs: tuple[RunData, ...]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """By data set, `ALL` last where there are several; empty without looks."""
        first = self.runs[0]
        if any(run.questions != first.questions for run in self.runs):
            raise ConfigError(f"{self.label}: its runs were looked at with different questions")
        shared = set.intersection(*({line["step"] for line in run.dev_lines} for run in self.runs))
        if not shared:
            return {}
        found = {name: self._curve((name,), sorted(shared)) for name in first.questions}
        if len(found) > 1:
            found[ALL] = self._curve(tuple(found), sorted(shared))
        return found

    def _curve(self, names: Sequence[str], steps: Sequence[int]) -> Curve:
        asked = [self.runs[0].questions[name] for name in names]
        lines = [[one for one in run.dev_lines if one["step"] in steps] for run in self.runs]
        totals = [[_totals(line) for line in run] for run in lines]
        described = [[_bits(line, names, "described_right") for line in run] for run in lines]
        return Curve(
            # Keys and scenes are unique within a data set only; glyphs are the same everywhere.
            keys=tuple(
                f"{name}:{key}" for name, one in zip(names, asked, strict=True) for key in one["keys"]
            ),
            clusters=tuple(
                (f"{name}:{case[0]}", *case[1:])
                for name, one in zip(names, asked, strict=True)
                for case in one["clusters"]
            ),
            steps=tuple(steps),
            costs={
                name: np.array([[one[name] for one in run] for run in totals], np.float64) for name in COSTS
            },
            right=np.array([[_bits(line, names, "right") for line in run] for run in lines], np.float64),
            described=None
            if any(bits is None for run in described for bits in run)
            else np.array(described, np.float64),
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """The cost at which a group first has a target accuracy; infinite where it never does."""

    cost: float
    """Of the mean curve over runs, linear between looks."""
    low: float
    high: float
    """95% interval over questions, resampled by scenes and glyphs; the runs are taken as they are."""
    ratio: float
    """To the baseline's own."""
    ratio_low: float
    ratio_high: float
    each: tuple[float, ...]
    """Every run's own."""


def read_run(folder: Path, steps: int | None = None) -> RunData:
    """A run's files.

    Args:
        steps: read as if it had ended after so many; None: all of it.

    Raises:
        ConfigError: it is no run of `mirl-train rl`.
    """
    recipe = folder / "recipe.yaml"
    if not recipe.is_file() or not (folder / "metrics.jsonl").is_file():
        raise ConfigError(f"{folder} is no run of mirl-train rl (recipe.yaml or metrics.jsonl is missing)")
    asked = folder / DEV_QUESTIONS
    try:
        questions = json.loads(asked.read_text(encoding="utf-8")) if asked.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{asked} can't be read: {error}") from error
    metrics, looks = (
        [line for line in read_lines(folder / name) if steps is None or line["step"] <= steps]
        for name in ("metrics.jsonl", DEV_RESULTS)
    )
    values = read_yaml(recipe)
    if steps is not None:
        values = {**values, "steps": min(steps, values["steps"])}
    return RunData(folder, values, metrics, looks, questions)


def groups_of(runs: Sequence[RunData]) -> list[Group]:
    """Runs by what they have in common but the seed; labels are unique."""
    kinds: dict[str, list[RunData]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    found: dict[str, Group] = {}
    for members in kinds.values():
        label, count = members[0].label, 2
        while label in found:
            label, count = f"{members[0].label} ({count})", count + 1
        found[label] = Group(label, tuple(members))
    return list(found.values())


def first_reach(cost: Array, accuracy: Array, target: Array) -> Array:
    """Where curves first come to their targets, linear between looks: [draws]; infinite where never.

    Args:
        cost: [looks], ascending.
        accuracy: [draws, looks].
        target: [draws].
    """
    there = accuracy >= target[:, None]
    found = np.full(len(target), math.inf)
    for draw in np.flatnonzero(there.any(axis=1)):
        at = int(there[draw].argmax())
        if at == 0:
            found[draw] = cost[0]
            continue
        before, after = accuracy[draw, at - 1], accuracy[draw, at]
        found[draw] = cost[at - 1] + (target[draw] - before) / (after - before) * (cost[at] - cost[at - 1])
    return found


def reach(curve: Curve, baseline: Curve, cost: str, draws: int = 2000) -> Reach:
    """When `curve` first has the accuracy that `baseline` ends with, at which cost.

    Both are resampled together, so that a draw of easy questions lifts both.

    Raises:
        ConfigError: the two were looked at with different questions.
    """
    if curve.keys != baseline.keys:
        raise ConfigError("runs were looked at with different questions; give all of them one `evaluation`")
    resampling = Resampling(baseline.clusters, draws)

    def of(one: Curve) -> tuple[Array, Array]:
        """Accuracy [1 + draws, looks], the plain one first, and costs [looks]."""
        means = one.right.mean(axis=0)
        drawn = [np.concatenate(([0.0], resampling.deviations(look))) + look.mean() for look in means]
        return np.stack(drawn, axis=1), one.cost(cost)

    theirs, their_cost = of(baseline)
    ours, our_cost = of(curve)
    target = theirs[:, -1]
    found, base = first_reach(our_cost, ours, target), first_reach(their_cost, theirs, target)
    # 0/0: both had it from the start.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(found == base, 1.0, found / base)
    low, high = _interval(found[1:])
    ratio_low, ratio_high = _interval(ratios[1:])
    each = tuple(
        float(first_reach(curve.costs[cost][run], curve.right[run].mean(axis=-1)[None], target[:1])[0])
        for run in range(len(curve.right))
    )
    return Reach(float(found[0]), low, high, float(ratios[0]), ratio_low, ratio_high, each)


def at_cost(curve: Curve, cost: str, spent: float) -> Array:
    """[questions]: the share of runs that were right when `spent` was spent, linear between looks."""
    shares = curve.right.mean(axis=0)
    along = np.interp(spent, curve.cost(cost), np.arange(len(shares)))
    before = int(along)
    after = min(before + 1, len(shares) - 1)
    return np.asarray(shares[before] + (along - before) * (shares[after] - shares[before]))


def _interval(values: Array) -> tuple[float, float]:
    # No interpolation: infinity times a share is no number.
    low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    return float(low), float(high)


def _totals(line: Mapping[str, Any]) -> dict[str, float]:
    totals = line["totals"]
    return {**totals, "tokens": totals["generated_tokens"] + totals["scored_tokens"]}


def _bits(line: Mapping[str, Any], names: Sequence[str], field: str) -> list[int] | None:
    found = [line["sets"][name].get(field) for name in names]
    return None if None in found else [int(bit) for text in found for bit in text]
