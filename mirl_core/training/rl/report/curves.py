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
from mirl_core.training.rl.dev_evaluation import DEV_QUESTIONS, DEV_RESULTS, differing_set
from mirl_core.training.rl.report.monitor import read_lines

__all__ = [
    "ALL",
    "COSTS",
    "Curve",
    "Reach",
    "RunData",
    "RunGroup",
    "at_cost",
    "first_reach",
    "groups_of",
    "reach",
    "read_run",
]

Array = npt.NDArray[np.float64]

ALL = "all sets"
"""Name for the questions of all data sets together."""
COSTS = {
    "complete_trajectories": "complete trajectories",
    "generated_tokens": "generated tokens",
    "tokens": "generated + scored tokens",
    "seconds": "seconds of training",
}
"""Names of the totals in a dev evaluation, and their titles."""
_SAME = ("seed", "output", "log", "checkpoint", "assumed_parameters")
"""Keys in which runs of one group may differ."""


@dataclass(frozen=True, slots=True)
class RunData:
    """The files of one run."""

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
    """A group's results on one data set, at every dev evaluation that all its runs have."""

    keys: tuple[str, ...]
    clusters: tuple[tuple[str, ...], ...]
    steps: tuple[int, ...]
    costs: Mapping[str, Array]
    """[runs, evaluations] by the names in `COSTS`."""
    right: Array
    """[runs, evaluations, questions]: 1 where the answer was right."""
    described: Array | None
    """[runs, evaluations, questions]: 1 where the description was right; None where the data set has no rule
    for it."""
    contents: tuple[str, ...] = ()
    """Digests of the questions' contents; empty where earlier versions evaluated."""

    def same_questions(self, other: Curve) -> bool:
        """Return whether both are about the same questions, as far as they tell."""
        known = self.contents and other.contents
        return self.keys == other.keys and (not known or self.contents == other.contents)

    def cost(self, name: str) -> Array:
        """Return [evaluations]: the mean over runs."""
        return np.asarray(self.costs[name].mean(axis=0))


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed."""

    label: str
    runs: tuple[RunData, ...]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Curves by data set, `ALL` last where there are several; empty without dev evaluations."""
        first = self.runs[0]
        if any(differing_set(run.questions, first.questions) is not None for run in self.runs):
            raise ConfigError(f"{self.label}: its runs were evaluated on different questions")
        shared = set.intersection(*({line["step"] for line in run.dev_lines} for run in self.runs))
        if not shared:
            return {}
        curves = {name: self._curve((name,), sorted(shared)) for name in first.questions}
        if len(curves) > 1:
            curves[ALL] = self._curve(tuple(curves), sorted(shared))
        return curves

    def _curve(self, names: Sequence[str], steps: Sequence[int]) -> Curve:
        questions = [self.runs[0].questions[name] for name in names]
        evaluations = [[line for line in run.dev_lines if line["step"] in steps] for run in self.runs]
        totals = [[_totals(line) for line in run] for run in evaluations]
        described = [[_bits(line, names, "described_right") for line in run] for run in evaluations]
        return Curve(
            # Keys and scenes are unique only within a data set; glyphs are the same everywhere.
            keys=tuple(
                f"{name}:{key}" for name, entry in zip(names, questions, strict=True) for key in entry["keys"]
            ),
            clusters=tuple(
                (f"{name}:{case[0]}", *case[1:])
                for name, entry in zip(names, questions, strict=True)
                for case in entry["clusters"]
            ),
            steps=tuple(steps),
            costs={
                name: np.array([[entry[name] for entry in run] for run in totals], np.float64)
                for name in COSTS
            },
            right=np.array(
                [[_bits(line, names, "right") for line in run] for run in evaluations], np.float64
            ),
            described=None
            if any(bits is None for run in described for bits in run)
            else np.array(described, np.float64),
            contents=tuple(digest for entry in questions for digest in entry.get("contents", ()))
            if all("contents" in entry for entry in questions)
            else (),
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """The cost at which a group first has a target accuracy; infinite where it never does."""

    cost: float
    """Cost of the mean curve over runs, linear between dev evaluations."""
    low: float
    high: float
    """95% interval over questions, resampled by scenes and glyphs; the runs are fixed. NaN where the
    questions don't vary."""
    ratio: float
    """Ratio to the baseline's own cost."""
    ratio_low: float
    ratio_high: float
    each: tuple[float, ...]
    """Cost of every run."""


def read_run(folder: Path, steps: int | None = None) -> RunData:
    """Read a run's files.

    Args:
        steps: read the run as if it had ended after this many steps; None: all of it.

    Raises:
        ConfigError: the folder is no run of `mirl-train rl`.
    """
    recipe = folder / "recipe.yaml"
    if not recipe.is_file() or not (folder / "metrics.jsonl").is_file():
        raise ConfigError(f"{folder} is no run of mirl-train rl (recipe.yaml or metrics.jsonl is missing)")
    questions_file = folder / DEV_QUESTIONS
    try:
        questions = json.loads(questions_file.read_text(encoding="utf-8")) if questions_file.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{questions_file} can't be read: {error}") from error
    metrics, dev_lines = (
        [line for line in read_lines(folder / name) if steps is None or line["step"] <= steps]
        for name in ("metrics.jsonl", DEV_RESULTS)
    )
    values = read_yaml(recipe)
    if steps is not None:
        values = {**values, "steps": min(steps, values["steps"])}
    return RunData(folder, values, metrics, dev_lines, questions)


def groups_of(runs: Sequence[RunData]) -> list[RunGroup]:
    """Group runs that differ only in their seed; labels are unique."""
    kinds: dict[str, list[RunData]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    by_label: dict[str, RunGroup] = {}
    for members in kinds.values():
        label, count = members[0].label, 2
        while label in by_label:
            label, count = f"{members[0].label} ({count})", count + 1
        by_label[label] = RunGroup(label, tuple(members))
    return list(by_label.values())


def first_reach(cost: Array, accuracy: Array, target: Array) -> Array:
    """Return the cost at which each curve first reaches its target, linear between dev evaluations: [draws];
    infinite where never.

    Args:
        cost: [evaluations], ascending.
        accuracy: [draws, evaluations].
        target: [draws].
    """
    reached = accuracy >= target[:, None]
    costs = np.full(len(target), math.inf)
    for draw in np.flatnonzero(reached.any(axis=1)):
        index = int(reached[draw].argmax())
        if index == 0:
            costs[draw] = cost[0]
            continue
        before, after = accuracy[draw, index - 1], accuracy[draw, index]
        costs[draw] = cost[index - 1] + (target[draw] - before) / (after - before) * (
            cost[index] - cost[index - 1]
        )
    return costs


def reach(curve: Curve, baseline: Curve, cost: str, draws: int = 2000) -> Reach:
    """Return the cost at which `curve` first has the accuracy that `baseline` ends with.

    Both are resampled together, so that a draw of easy questions raises both.

    Raises:
        ConfigError: the two were evaluated on different questions.
    """
    if not curve.same_questions(baseline):
        raise ConfigError("runs were evaluated on different questions; give all of them one `evaluation`")
    resampling = Resampling(baseline.clusters, draws)

    def resampled(curve: Curve) -> tuple[Array, Array]:
        """Return accuracy [1 + draws, evaluations], the plain one first, and costs [evaluations]."""
        means = curve.right.mean(axis=0)
        drawn = [np.concatenate(([0.0], resampling.deviations(shares))) + shares.mean() for shares in means]
        return np.stack(drawn, axis=1), curve.cost(cost)

    base_accuracy, base_cost = resampled(baseline)
    accuracy, own_cost = resampled(curve)
    target = base_accuracy[:, -1]
    costs, base_costs = first_reach(own_cost, accuracy, target), first_reach(base_cost, base_accuracy, target)
    # 0/0: both have the accuracy from the start.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(costs == base_costs, 1.0, costs / base_costs)
    # Where every draw has the same accuracies, the questions tell nothing about others.
    drawn = any(np.ptp(means, axis=0).any() for means in (base_accuracy, accuracy))
    low, high = _interval(costs[1:]) if drawn else (math.nan, math.nan)
    ratio_low, ratio_high = _interval(ratios[1:]) if drawn else (math.nan, math.nan)
    each = tuple(
        float(first_reach(curve.costs[cost][run], curve.right[run].mean(axis=-1)[None], target[:1])[0])
        for run in range(len(curve.right))
    )
    return Reach(float(costs[0]), low, high, float(ratios[0]), ratio_low, ratio_high, each)


def at_cost(curve: Curve, cost: str, spent: float) -> Array:
    """Return [questions]: the share of runs that were right at the cost `spent`, linear between dev
    evaluations."""
    shares = curve.right.mean(axis=0)
    position = np.interp(spent, curve.cost(cost), np.arange(len(shares)))
    before = int(position)
    after = min(before + 1, len(shares) - 1)
    return np.asarray(shares[before] + (position - before) * (shares[after] - shares[before]))


def _interval(values: Array) -> tuple[float, float]:
    # No interpolation: infinity times a share is no number.
    low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    return float(low), float(high)


def _totals(line: Mapping[str, Any]) -> dict[str, float]:
    totals = line["totals"]
    return {**totals, "tokens": totals["generated_tokens"] + totals["scored_tokens"]}


def _bits(line: Mapping[str, Any], names: Sequence[str], field: str) -> list[int] | None:
    texts = [line["sets"][name].get(field) for name in names]
    return None if None in texts else [int(bit) for text in texts for bit in text]
