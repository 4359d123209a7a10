"""`mirl-eval calibrate`, around `calibrate.py`: the bank before, `mirl.json`, frontier and plot after."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.evaluation.calibrate import Candidate, Choice, Grid, calibrate, frontier
from mirl_core.evaluation.progress import Bar, Bars
from mirl_core.evaluation.run import EngineFactory, once, one_line, vllm_engine
from mirl_core.evaluation.study import RunSettings, Study

__all__ = ["calibrate_blocking", "calibrate_run"]


def calibrate_blocking(settings: RunSettings, target: Path, budget: float | None) -> None:
    """`calibrate_run` for a command line; prints what it came to."""
    _print(one_line(calibrate_run(settings, target, budget)))


async def calibrate_run(
    settings: RunSettings, target: Path, budget: float | None, engine_factory: EngineFactory | None = None
) -> Choice:
    """Choose options on the bank's questions and write them to `target`, everything else in it kept.

    Also writes `calibration.json` and `plots/calibration.png` into the bank's folder.

    Raises:
        ConfigError: settings or folders don't fit, or no settings fit the budget.
        RequestError, EngineError: as `mirl_core.evaluation.run.run`.
    """
    study = Study(settings)
    with Bars() as bars:
        async with AsyncExitStack() as stack:
            await study.fill(once(stack, engine_factory or vllm_engine(settings.model)), bars)
        choice = _choose(study, budget, bars)
    _write(study, choice, target)
    return choice


def _choose(study: Study, budget: float | None, bars: Bars) -> Choice:
    settings = study.settings
    estimators = tuple(
        # A model without reference images of its own couldn't be served with that estimator.
        name
        for name in study.plan.estimators
        if name != "reference" or study.model_settings.reference_images
    )
    if not estimators:
        raise ConfigError(
            "estimators: the model's mirl.json names no reference_images; bank text or blank",
            param="estimators",
        )
    questions = [one for data in study.data for one in study.banked(data)]
    with ExitStack() as shown:
        known: dict[str, Bar] = {}

        def tick(stage: str, done: int, total: int) -> None:
            if stage not in known:
                known[stage] = shown.enter_context(bars.bar(stage, total))
            known[stage].at(done, total)

        return calibrate(
            questions,
            study.model_settings,
            Grid().within(study.plan.descriptions, study.plan.forks, estimators),
            budget=budget,
            opening_tokens=study.opening_tokens,
            count=settings.replays,
            seed=settings.seed,
            tick=tick,
        )


def _write(study: Study, choice: Choice, target: Path) -> None:
    settings = study.settings
    before = _read(target if target.is_file() else settings.model / "mirl.json")
    options = {**before.get("options", {}), "gate": "mi", **dict(choice.chosen.options)}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({**before, "options": options}, indent=2, ensure_ascii=False) + "\n")
    record = {
        **study.facts(),
        "data": [data.name for data in study.data],
        "questions": len(choice.chosen.accuracy),
        "budget": choice.budget,
        "tried": choice.tried,
        "chosen": choice.chosen.to_json(),
        "best": choice.best.to_json(),
        "standard_error": choice.error,
        "baseline": choice.baseline.to_json(),
        "candidates": [one.to_json() for one in sorted(choice.finalists, key=lambda one: one.cost)],
    }
    (settings.output / "calibration.json").write_text(json.dumps(record, indent=1) + "\n")
    _plot(choice, settings.output / "plots" / "calibration.png")


def _read(path: Path) -> dict[str, Any]:
    """A `mirl.json` as it stands; empty where there is none. `ModelSettings.load` has checked the model's."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not readable JSON: {error}", param="output") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold a JSON object", param="output")
    return found


def _words(one: Candidate) -> str:
    given = dict(one.options)
    weight = given.pop("mi_weight")
    parts = [f"λ={weight:g}" if isinstance(weight, float) else f"λ={weight}"]
    parts += [f"{short}={given.pop(name)}" for name, short in _SHORT.items()]
    parts += [str(given.pop("estimator")), f"per {given.pop('normalize')}"]
    return " ".join([*parts, *(f"{name}={value}" for name, value in given.items() if value)])


def _figures(one: Candidate) -> str:
    words = f", {_words(one)}" if one.options else ""
    return f"{100 * one.mean:.1f}% at {one.cost:.0f} tokens{words}"


_SHORT = {"descriptions": "N", "keep": "k", "forks": "m"}


def _print(choice: Choice) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="no cheaper candidate is as accurate", title_justify="left")
    for head in ("tokens", "accuracy, %"):
        table.add_column(head, justify="right")
    table.add_column("options")
    for one in frontier(choice.finalists):
        mark = "  ← chosen" if one is choice.chosen else ""
        table.add_row(f"{one.cost:.0f}", f"{100 * one.mean:.1f}", _words(one) + mark)
    console = Console()
    console.print(table)
    console.print(
        f"sc@16+stop: {_figures(choice.baseline)}; "
        f"budget {choice.budget:.0f} tokens\n"
        f"best within it: {_figures(choice.best)}\n"
        f"chosen, the cheapest within one standard error ({100 * choice.error:.1f} points): "
        f"{_figures(choice.chosen)}\n"
        "These are the figures it was chosen by, and so too good: report it on test.",
        markup=False,
        highlight=False,
    )


def _plot(choice: Choice, path: Path) -> None:
    from mirl_core.evaluation.report.plots import COLOURS, panels, save

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (axis,) = panels(1, width=6.4, height=4.2)
    blue, orange, green = COLOURS[:3]
    everything = sorted(choice.finalists, key=lambda one: one.cost)
    best = frontier(everything)
    entries = {
        "candidates": axis.scatter(
            [one.cost for one in everything], [100 * one.mean for one in everything], s=16, color="0.65"
        ),
        "frontier": axis.plot(
            [one.cost for one in best], [100 * one.mean for one in best], color=blue, linewidth=1.4, zorder=3
        )[0],
        "chosen": axis.scatter(
            [choice.chosen.cost], [100 * choice.chosen.mean], s=90, marker="*", color=orange, zorder=5
        ),
        "sc@16+stop": axis.scatter(
            [choice.baseline.cost], [100 * choice.baseline.mean], s=40, marker="s", color=green, zorder=4
        ),
        "budget": axis.axvline(choice.budget, color="0.4", linewidth=1, linestyle=":"),
    }
    axis.set_xlabel("generated + scored tokens a question", fontsize=8.5)
    axis.set_ylabel("accuracy on these dev questions, %", fontsize=8.5)
    axis.set_title(f"{choice.tried} settings tried, {len(everything)} measured on all questions", fontsize=10)
    save(figure, path, entries)
