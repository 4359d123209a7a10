"""Plots of runs, in the style of the evaluation's: one colour a group, a band over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mirl_core.tasks.plotting import COLOURS, panels, save
from mirl_core.tasks.resampling import Resampling
from mirl_core.training.rl.report.curves import COSTS, Curve, Group

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
"""Curves of steps are averaged down to about so many points: reward of one step is mostly noise."""


def draw_plots(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw what the runs have figures for; returns the files, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        _looks(groups, folder / "accuracy.png", "right", "accuracy, %"),
        _looks(groups, folder / "perception.png", "described", "right descriptions, %"),
        _steps(groups, folder / "rewards.png", _REWARDS),
        _steps(groups, folder / "health.png", _HEALTH),
        _seconds(groups, folder / "seconds.png"),
    ]
    return [path for path in drawn if path is not None]


def _looks(groups: Sequence[Group], path: Path, field: str, title: str) -> Path | None:
    """Shares at looks, a row a data set, a column a kind of cost."""
    with_field = [
        (
            place,
            group,
            {name: curve for name, curve in group.curves.items() if _values(curve, field) is not None},
        )
        for place, group in enumerate(groups)
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
            for place, group, curves in with_field:
                if name in curves:
                    entries[_entry(group)] = _curve(axis, curves[name], field, cost, _colour(place))
            # 200 k: six digits a tick run into each other.
            axis.xaxis.set_major_formatter(EngFormatter())
            _titles(axis, name, COSTS[cost], title)
    return save(figure, path, entries)


def _curve(axis: Axes, curve: Curve, field: str, cost: str, colour: str) -> Any:
    values = _values(curve, field)
    assert values is not None, "chosen by it"
    means = 100 * values.mean(axis=-1)
    x = curve.cost(cost)
    if len(means) > 1:
        low, high = means.min(axis=0), means.max(axis=0)
        for run, line in enumerate(means):
            axis.plot(curve.costs[cost][run], line, color=colour, linewidth=0.6, alpha=0.5)
    else:
        # One run: the band says how far its questions alone could mislead.
        resampling = Resampling(curve.clusters)
        bands = [resampling.proportion(look) for look in values[0]]
        low, high = (100 * np.array([getattr(one, end) for one in bands]) for end in ("low", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    (line,) = axis.plot(x, means.mean(axis=0), color=colour, linewidth=1.6, marker="o", markersize=3)
    return line


def _steps(groups: Sequence[Group], path: Path, wanted: Mapping[str, str]) -> Path | None:
    """Figures of every step, averaged over neighbours."""
    there = {
        name: title
        for name, title in wanted.items()
        if any(line.get(name) is not None for group in groups for run in group.runs for line in run.metrics)
    }
    if not there:
        return None
    figure, axes = panels(len(there))
    entries: dict[str, Any] = {}
    for axis, (name, title) in zip(axes, there.items(), strict=True):
        for place, group in enumerate(groups):
            lines = [_smooth(run.metrics, name) for run in group.runs]
            lines = [line for line in lines if len(line[0])]
            if not lines:
                continue
            steps = min((line[0] for line in lines), key=len)
            curves = np.stack([np.interp(steps, *line) for line in lines])
            colour = _colour(place)
            if len(curves) > 1:
                axis.fill_between(
                    steps, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, linewidth=0
                )
            (entries[_entry(group)],) = axis.plot(steps, curves.mean(axis=0), color=colour, linewidth=1.4)
        _titles(axis, title, "step", "")
    return save(figure, path, entries)


def _smooth(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[Array, Array]:
    """Steps and values, both averaged over neighbours."""
    had = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
    width = max(1, len(had) // _POINTS)
    parts = [
        np.array(had[begin : begin + width], np.float64).mean(axis=0) for begin in range(0, len(had), width)
    ]
    whole = np.stack(parts) if parts else np.zeros((0, 2))
    return whole[:, 0], whole[:, 1]


def _seconds(groups: Sequence[Group], path: Path) -> Path | None:
    """Where a step's time goes: means over steps and runs, stacked."""
    stages: dict[str, None] = {}
    means = []
    for group in groups:
        lines = [line for run in group.runs for line in run.metrics]
        found = {
            name.removeprefix("seconds/"): float(
                np.mean([line[name] for line in lines if line.get(name) is not None])
            )
            for name in dict.fromkeys(name for line in lines for name in line)
            if name in ("seconds/plan", "seconds/train", "seconds/sync")
        }
        stages |= dict.fromkeys(found)
        means.append(found)
    if not stages:
        return None
    figure, (axis,) = panels(1, width=6.4, height=1.2 + 0.4 * len(groups))
    begins = np.zeros(len(groups))
    entries: dict[str, Any] = {}
    for place, stage in enumerate(stages):
        widths = np.array([found.get(stage, 0.0) for found in means])
        entries[stage] = axis.barh(
            [group.label for group in groups], widths, left=begins, height=0.6, color=_colour(place)
        )
        begins += widths
    axis.invert_yaxis()
    _titles(axis, "a step", "seconds", "")
    return save(figure, path, entries)


def _values(curve: Curve, field: str) -> Array | None:
    found: Array | None = getattr(curve, field)
    return found


def _entry(group: Group) -> str:
    count = len(group.runs)
    return f"{group.label} ({count} seeds, band: their range)" if count > 1 else f"{group.label} (one seed)"


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _titles(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=8.5)
    axis.set_ylabel(y, fontsize=8.5)
