"""`mirl-train report`: runs side by side, as report.md, plots and pages of trajectories.

Runs whose recipes differ only in their seed form one group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mirl_core.errors import ConfigError
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.markdown_tables import percent, points, table
from mirl_core.tasks.resampling import Resampling
from mirl_core.training.rl.report.curves import (
    COSTS,
    Curve,
    Reach,
    RunGroup,
    at_cost,
    groups_of,
    reach,
    read_run,
)
from mirl_core.training.rl.report.pages import write_page
from mirl_core.training.rl.report.plots import draw_plots

__all__ = ["write_report"]

Array = npt.NDArray[np.float64]

_PREFACE = """Accuracy is the share of right answers to one sampled trajectory a question, runs averaged;
brackets are 95% intervals over questions, resampled by scenes and glyphs; they take the runs as they are.
Differences are paired by question. *n* is questions times runs."""

_EQUAL = """Accuracy minus that of **{baseline}**, in points, when both have spent as much: a quarter to all
of what **{baseline}** spent, linear between dev evaluations. A dash: the run ended before. Brackets are 95%
intervals over questions, paired; they take the runs as they are."""

_REACH = """The cost at which the mean curve over runs first has the accuracy that **{baseline}** ends with,
linear between dev evaluations; *each run* is the same of every run's own curve. Brackets are 95% intervals
over questions, both curves resampled together; they take the runs as they are. A dash: never reached. *Share*
is of what the baseline itself took to first have that accuracy. Cost is of training alone, without dev
evaluations."""


def write_report(
    runs: Sequence[Path], output: Path, baseline: str | None = None, steps: int | None = None
) -> list[Path]:
    """Write the report of some runs; return its files.

    Args:
        baseline: label of the group whose final accuracy is the target; None: the group of planner grpo.
        steps: leave out later steps, to compare runs of different lengths.

    Raises:
        ConfigError: a folder is no run, runs were evaluated on different questions, or there is no such
            baseline.
    """
    groups = groups_of([read_run(folder, steps) for folder in runs])
    base = _baseline(groups, baseline)
    output.mkdir(parents=True, exist_ok=True)
    plots = draw_plots(groups, output / "plots")
    pages = []
    for group in groups:
        for run in group.runs:
            suffix = f"-{file_name(group.label)}-{run.recipe.get('seed', 0)}" if len(runs) > 1 else ""
            pages.append(write_page(run.folder, output / f"trajectories{suffix}.html"))
    sections = [
        "# Training runs",
        _runs(groups),
        *_section("## Accuracy at the end", _PREFACE, _final(groups, base)),
        *_section("## At equal cost", *_equal(groups, base)),
        *_section("## Cost to reach the baseline", *_reaching(groups, base)),
        *(f"![{path.stem}](plots/{path.name})" for path in plots),
        *(f"[Trajectories: {path.stem}]({path.name})" for path in pages if path is not None),
    ]
    written = output / "report.md"
    written.write_text("\n\n".join(part for part in sections if part) + "\n", encoding="utf-8")
    return [written, *plots, *(path for path in pages if path is not None)]


def _baseline(groups: Sequence[RunGroup], name: str | None) -> RunGroup | None:
    if name is None:
        candidates = [group for group in groups if group.runs[0].recipe.get("planner") == "grpo"]
        return candidates[0] if candidates else None
    for group in groups:
        if name == group.label or any(name == str(run.folder) for run in group.runs):
            return group
    raise ConfigError(
        f"baseline: there is no '{name}'; there are: {', '.join(group.label for group in groups)}",
        param="baseline",
    )


def _section(title: str, words: str, figures: str) -> Iterator[str]:
    if figures:
        yield from (title, words, figures)


def _runs(groups: Sequence[RunGroup]) -> str:
    head = (
        "run",
        "planner",
        "seeds",
        "steps",
        "trajectories",
        "generated tokens",
        "scored tokens",
        "seconds",
    )
    rows = []
    for group in groups:
        last = [run.metrics[-1] for run in group.runs if run.metrics]
        means = [
            _count(sum(line.get(f"total/{name}") or 0 for line in last) / max(len(last), 1))
            for name in ("complete_trajectories", "generated_tokens", "scored_tokens", "seconds")
        ]
        seeds = ", ".join(str(run.recipe.get("seed", 0)) for run in group.runs)
        steps = "/".join(str(line["step"]) for line in last)
        rows.append((group.label, str(group.runs[0].recipe.get("planner", "mirl")), seeds, steps, *means))
    return table(head, rows)


def _final(groups: Sequence[RunGroup], base: RunGroup | None) -> str:
    head = ["run", "data", "n"]
    for quantity in ("accuracy", "right descriptions"):
        head += [f"{quantity} at the start, %", "at the end, %"]
        head += [] if base is None else [f"minus {base.label}'s, points"]
    rows = []
    for group in groups:
        for name, curve in group.curves.items():
            baseline_curve = _baseline_curve(group, base, name)
            resampling = Resampling(curve.clusters)
            cells = [group.label, name, str(curve.right.shape[0] * curve.right.shape[2])]
            for field in ("right", "described"):
                shares = _questions(curve, field)
                cells += (
                    ["–", "–"] if shares is None else [_share(resampling, shares[index]) for index in (0, -1)]
                )
                if base is not None:
                    other = None if baseline_curve is None else _questions(baseline_curve, field)
                    cells.append(
                        "–" if shares is None or other is None else _gain(resampling, shares[-1], other[-1])
                    )
            rows.append(tuple(cells))
    return table(tuple(head), rows)


def _baseline_curve(group: RunGroup, base: RunGroup | None, name: str) -> Curve | None:
    """Return the baseline's curve for a group's; None: there is none, or its questions differ."""
    baseline_curve = None if base is None or group is base else base.curves.get(name)
    return (
        baseline_curve
        if baseline_curve is not None and baseline_curve.same_questions(group.curves[name])
        else None
    )


def _questions(curve: Curve, field: str) -> Array | None:
    """Return [evaluations, questions]: the share of runs that were right."""
    values: Array | None = getattr(curve, field)
    return None if values is None else np.asarray(values.mean(axis=0))


def _share(resampling: Resampling, values: Array) -> str:
    interval = resampling.proportion(values)
    return percent(interval.mean, interval.low, interval.high)


def _gain(resampling: Resampling, ours: Array, theirs: Array) -> str:
    difference = resampling.difference(ours, theirs)
    return points({"difference": difference.mean, "low": difference.low, "high": difference.high})


_PARTS = {"a quarter": 0.25, "half": 0.5, "three quarters": 0.75, "all": 1.0}


def _equal(groups: Sequence[RunGroup], base: RunGroup | None) -> tuple[str, str]:
    if base is None or not base.curves:
        return "", ""
    rows = []
    for group in groups:
        for name, curve in group.curves.items():
            baseline_curve = _baseline_curve(group, base, name)
            if baseline_curve is None:
                continue
            resampling = Resampling(curve.clusters)
            for cost, title in COSTS.items():
                cells = []
                for part in _PARTS.values():
                    spent = part * float(baseline_curve.cost(cost)[-1])
                    reached = spent <= float(curve.cost(cost)[-1])
                    values = [at_cost(each_curve, cost, spent) for each_curve in (curve, baseline_curve)]
                    cells.append(_gain(resampling, *values) if reached else "–")
                rows.append((group.label, name, title, *cells))
    return _EQUAL.format(baseline=base.label), table(("run", "data", "cost", *_PARTS), rows) if rows else ""


def _reaching(groups: Sequence[RunGroup], base: RunGroup | None) -> tuple[str, str]:
    if base is None or not base.curves:
        return "", ""
    head = ("run", "data", "n", "target, %", "cost", "reached at", "each run", "share of the baseline's")
    rows = []
    for name, baseline_curve in base.curves.items():
        target = percent(float(baseline_curve.right[:, -1].mean()))
        for group in groups:
            curve = group.curves.get(name)
            if curve is None:
                continue
            n = str(curve.right.shape[0] * curve.right.shape[2])
            rows += [
                (group.label, name, n, target, *_reach_cells(curve, baseline_curve, cost)) for cost in COSTS
            ]
    return _REACH.format(baseline=base.label), table(head, rows)


def _reach_cells(curve: Curve, baseline_curve: Curve, cost: str) -> tuple[str, str, str, str]:
    result: Reach = reach(curve, baseline_curve, cost)
    each = " / ".join(_count(run_cost) for run_cost in result.each)
    return (
        COSTS[cost],
        f"{_count(result.cost)} [{_count(result.low)}, {_count(result.high)}]",
        each if len(result.each) > 1 else "",
        f"{_ratio(result.ratio)} [{_ratio(result.ratio_low)}, {_ratio(result.ratio_high)}]",
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
