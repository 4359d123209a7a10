"""Plots of runs, in the style of the evaluation's: one colour per group, a band over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mirl_core.tasks.plotting import COLOURS, panels, save
from mirl_core.tasks.resampling import Resampling
from mirl_core.training.rl.report.curves import COSTS, Curve, RunGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_plots"]

Array = npt.NDArray[np.float64]

_SHOWN_COSTS = ("generated_tokens", "complete_trajectories", "seconds")
_REWARDS = {
    "reward/description": "reward of descriptions",
    "reward/answer": "reward of chains",
    "mi/mean": "MI of descriptions, nats",
    "descriptions/right": "share of right descriptions",
    "answers/right": "share of right answers",
    "groups/flat": "groups without a difference",
}
_HEALTH = {
    "kl": "KL to the start (k3), nats a token",
    "entropy": "entropy estimate, nats a token",
    "clip/high": "share clipped above",
    "clip/low": "share clipped below",
    "mismatch/mean": "|trainer − sampler|, nats a token",
    "grad_norm": "norm of the gradient",
}
_POINTS = 60
"""Curves of steps are averaged down to about this many points: the reward of one step is mostly noise."""


def draw_plots(groups: Sequence[RunGroup], folder: Path) -> list[Path]:
    """Draw the figures that the runs have; return the files, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        _evaluations(groups, folder / "accuracy.png", "right", "accuracy, %"),
        _evaluations(groups, folder / "perception.png", "described", "right descriptions, %"),
        _steps(groups, folder / "rewards.png", _REWARDS),
        _steps(groups, folder / "health.png", _HEALTH),
        _seconds(groups, folder / "seconds.png"),
    ]
    return [path for path in drawn if path is not None]


def _evaluations(groups: Sequence[RunGroup], path: Path, field: str, title: str) -> Path | None:
    """Plot shares at dev evaluations, one row per data set, one column per kind of cost."""
    with_field = [
        (
            index,
            group,
            {name: curve for name, curve in group.curves.items() if _values(curve, field) is not None},
        )
        for index, group in enumerate(groups)
    ]
    names = list(dict.fromkeys(name for _, _, curves in with_field for name in curves))
    if not names:
        return None
    from matplotlib.ticker import EngFormatter

    figure, axes = panels(len(names) * len(_SHOWN_COSTS), width=4.0, height=3.0)
    entries: dict[str, Any] = {}
    for row, name in enumerate(names):
        for column, cost in enumerate(_SHOWN_COSTS):
            axis = axes[row * len(_SHOWN_COSTS) + column]
            for index, group, curves in with_field:
                if name in curves:
                    entries[_entry(group)] = _curve(axis, curves[name], field, cost, _colour(index))
            # Shown as 200 k: ticks of six digits overlap.
            axis.xaxis.set_major_formatter(EngFormatter())
            _titles(axis, name, COSTS[cost], title)
    return save(figure, path, entries)


def _curve(axis: Axes, curve: Curve, field: str, cost: str, colour: str) -> Any:
    values = _values(curve, field)
    assert values is not None, "only curves with this field are plotted"
    means = 100 * values.mean(axis=-1)
    x = curve.cost(cost)
    if len(means) > 1:
        low, high = means.min(axis=0), means.max(axis=0)
        for run, line in enumerate(means):
            axis.plot(curve.costs[cost][run], line, color=colour, linewidth=0.6, alpha=0.5)
    else:
        # One run: the band is the uncertainty over its questions.
        resampling = Resampling(curve.clusters)
        bands = [resampling.proportion(shares) for shares in values[0]]
        low, high = (100 * np.array([getattr(band, end) for band in bands]) for end in ("low", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    (line,) = axis.plot(x, means.mean(axis=0), color=colour, linewidth=1.6, marker="o", markersize=3)
    return line


def _steps(groups: Sequence[RunGroup], path: Path, titles: Mapping[str, str]) -> Path | None:
    """Plot figures of every step, averaged over neighbours."""
    available = {
        name: title
        for name, title in titles.items()
        if any(line.get(name) is not None for group in groups for run in group.runs for line in run.metrics)
    }
    if not available:
        return None
    figure, axes = panels(len(available))
    entries: dict[str, Any] = {}
    for axis, (name, title) in zip(axes, available.items(), strict=True):
        for index, group in enumerate(groups):
            lines = [_smooth(run.metrics, name) for run in group.runs]
            lines = [line for line in lines if len(line[0])]
            if not lines:
                continue
            steps = min((line[0] for line in lines), key=len)
            curves = np.stack([np.interp(steps, *line) for line in lines])
            colour = _colour(index)
            if len(curves) > 1:
                axis.fill_between(
                    steps, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, linewidth=0
                )
            (entries[_entry(group)],) = axis.plot(steps, curves.mean(axis=0), color=colour, linewidth=1.4)
        _titles(axis, title, "step", "")
    return save(figure, path, entries)


def _smooth(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[Array, Array]:
    """Return steps and values, both averaged over neighbours."""
    points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
    width = max(1, len(points) // _POINTS)
    parts = [
        np.array(points[begin : begin + width], np.float64).mean(axis=0)
        for begin in range(0, len(points), width)
    ]
    whole = np.stack(parts) if parts else np.zeros((0, 2))
    return whole[:, 0], whole[:, 1]


def _seconds(groups: Sequence[RunGroup], path: Path) -> Path | None:
    """Plot the time of a step by stage: means over steps and runs, stacked."""
    stages: dict[str, None] = {}
    means = []
    for group in groups:
        lines = [line for run in group.runs for line in run.metrics]
        seconds = {
            name.removeprefix("seconds/"): float(
                np.mean([line[name] for line in lines if line.get(name) is not None])
            )
            for name in dict.fromkeys(name for line in lines for name in line)
            if name in ("seconds/plan", "seconds/train", "seconds/sync")
        }
        stages |= dict.fromkeys(seconds)
        means.append(seconds)
    if not stages:
        return None
    figure, (axis,) = panels(1, width=6.4, height=1.2 + 0.4 * len(groups))
    begins = np.zeros(len(groups))
    entries: dict[str, Any] = {}
    for index, stage in enumerate(stages):
        widths = np.array([seconds.get(stage, 0.0) for seconds in means])
        entries[stage] = axis.barh(
            [group.label for group in groups], widths, left=begins, height=0.6, color=_colour(index)
        )
        begins += widths
    axis.invert_yaxis()
    _titles(axis, "a step", "seconds", "")
    return save(figure, path, entries)


def _values(curve: Curve, field: str) -> Array | None:
    values: Array | None = getattr(curve, field)
    return values


def _entry(group: RunGroup) -> str:
    count = len(group.runs)
    return f"{group.label} ({count} seeds, band: their range)" if count > 1 else f"{group.label} (one seed)"


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _titles(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=8.5)
    axis.set_ylabel(y, fontsize=8.5)
