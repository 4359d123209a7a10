"""The command `mirl-eval calibrate`: fills the bank, runs `options.py` and `confidence.py`, and writes
`mirl.json`, figures and plot."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import MIRLOptions, ModelSettings, first_problem
from mirl_core.errors import ConfigError
from mirl_core.evaluation.calibration.confidence import Fitted, fit, votes_of
from mirl_core.evaluation.calibration.options import Candidate, Choice, Grid, calibrate, frontier
from mirl_core.evaluation.methods import parse_methods
from mirl_core.evaluation.run.command import EngineFactory, once, one_line, vllm_engine
from mirl_core.evaluation.run.needs import check
from mirl_core.evaluation.run.progress import Bar, Bars
from mirl_core.evaluation.run.setup import RunSettings, RunSetup

__all__ = [
    "calibrate_blocking",
    "calibrate_run",
    "confidence_blocking",
    "confidence_run",
    "read_mirl_json",
]


def calibrate_blocking(settings: RunSettings, target: Path, budget: float | None) -> None:
    """Run `calibrate_run` for a command line, and print its result."""
    choice, fitted = one_line(calibrate_run(settings, target, budget))
    _print_choice(choice)
    _print_confidence(fitted)


def confidence_blocking(settings: RunSettings, target: Path) -> None:
    """Run `confidence_run` for a command line, and print its result."""
    _print_confidence(one_line(confidence_run(settings, target)))


async def calibrate_run(
    settings: RunSettings, target: Path, budget: float | None, engine_factory: EngineFactory | None = None
) -> tuple[Choice, Fitted]:
    """Choose options on the bank's questions, fit the confidence of their votes, and write both to `target`.

    The other entries of `target` are kept.

    Also writes `calibration.json`, `confidence.json` and `plots/calibration.png` into the bank's folder.

    Raises:
        ConfigError: settings or folders don't fit, or no settings fit the budget.
        RequestError, EngineError: as `mirl_core.evaluation.run.command.run`.
    """
    bars = Bars()
    setup = RunSetup(settings, bars.status)
    written = _voting(setup, read_mirl_json(settings.model, target), target).options
    if written.steered or setup.model_settings.options.steered:
        raise ConfigError(
            "contrast: these options decode descriptions, and calibrate chooses those of a gate; use "
            "--confidence-only, or take contrast and preset out of the mirl.json",
            param="contrast",
        )
    with bars:
        await _fill(setup, engine_factory, bars)
        choice = _choose(setup, budget, bars)
    mirl_json = read_mirl_json(settings.model, target)
    options = {**mirl_json.get("options", {}), "gate": "mi", **dict(choice.chosen.options)}
    _write(setup, choice)
    return choice, _calibrated(setup, {**mirl_json, "options": options}, target)


async def confidence_run(
    settings: RunSettings, target: Path, engine_factory: EngineFactory | None = None
) -> Fitted:
    """Fit the confidence of votes under the options of `target`, or else of the model's `mirl.json`.

    Writes the calibration to `target`, whose other entries are kept.

    Also writes `confidence.json` into the bank's folder.

    Raises:
        ConfigError: settings or folders don't fit, or these questions' votes can't be calibrated.
        RequestError, EngineError: as `mirl_core.evaluation.run.command.run`.
    """
    bars = Bars()
    setup = RunSetup(settings, bars.status)
    mirl_json = read_mirl_json(settings.model, target)
    voting = _voting(setup, mirl_json, target)
    # Before hours go into filling an unusable bank.
    if difference := _bank_difference(setup, voting.options):
        raise ConfigError(f"confidence: {difference}", param="fork_image")
    check(parse_methods("mirl", voting), setup.plan, setup.data)
    with bars:
        await _fill(setup, engine_factory, bars)
    return _calibrated(setup, mirl_json, target, needed=True)


async def _fill(setup: RunSetup, engine_factory: EngineFactory | None, bars: Bars) -> None:
    async with AsyncExitStack() as stack:
        await setup.fill(once(stack, engine_factory or vllm_engine(setup.settings.model), bars), bars)


def _choose(setup: RunSetup, budget: float | None, bars: Bars) -> Choice:
    settings = setup.settings
    estimators = tuple(
        # A model whose mirl.json has no reference images can't be served with that estimator.
        name
        for name in setup.plan.estimators
        if ESTIMATORS[name].passes(len(setup.model_settings.reference_images))
    )
    if not estimators:
        raise ConfigError(
            "estimators: the model's mirl.json names no reference_images; bank text or blank",
            param="estimators",
        )
    questions = [question for data in setup.data for question in setup.banked(data)]
    with ExitStack() as shown:
        stages: dict[str, Bar] = {}

        def tick(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = shown.enter_context(bars.bar(stage, total))
            stages[stage].at(done, total)

        return calibrate(
            questions,
            setup.model_settings,
            Grid().within(setup.plan.descriptions, setup.plan.forks, estimators),
            budget=budget,
            opening_tokens=setup.opening_tokens,
            count=settings.replays,
            seed=settings.seed,
            tick=tick,
        )


def _calibrated(setup: RunSetup, mirl_json: dict[str, Any], target: Path, needed: bool = False) -> Fitted:
    """Write `mirl_json` to `target` with the calibration of its options' votes in place of an earlier one.

    Raises:
        ConfigError: the fit gives no calibration, and it is `needed`; then nothing is written.
    """
    settings, voting = setup.settings, _voting(setup, mirl_json, target)
    if difference := _bank_difference(setup, voting.options):
        fitted = Fitted(None, difference)
    else:
        banked = [question for data in setup.data for question in setup.banked(data)]
        fitted = fit(votes_of(banked, voting, settings.replays, settings.seed))
    if needed and fitted.calibration is None:
        raise ConfigError(f"confidence: {fitted.left_out}", param="data")
    # An earlier calibration was fitted for other options, or on other questions.
    kept = {name: value for name, value in mirl_json.items() if name != "calibration"}
    if fitted.calibration is not None:
        kept["calibration"] = fitted.calibration.model_dump()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    record = {
        **setup.facts(),
        "data": [data.name for data in setup.data],
        "options": voting.options.model_dump(mode="json"),
        **fitted.to_json(),
    }
    (settings.output / "confidence.json").write_text(json.dumps(record, indent=1) + "\n")
    return fitted


def _voting(setup: RunSetup, mirl_json: dict[str, Any], target: Path) -> ModelSettings:
    """Return the model's settings with the options of the `mirl.json` to be written."""
    try:
        options = MIRLOptions.model_validate(mirl_json.get("options", {}))
    except ValidationError as error:
        message, where = first_problem(error, MIRLOptions)
        raise ConfigError(f"{target}: options: {message}", param=where) from error
    return setup.model_settings.model_copy(update={"options": options})


def _bank_difference(setup: RunSetup, options: MIRLOptions) -> str:
    """Return how the bank's samples differ from samples under these options; empty: not at all."""
    for name in ("fork_image", "description_tokens"):
        banked, required = getattr(setup.plan, name), getattr(options, name)
        if banked != required:
            return f"the bank was filled with {name} {banked}, and the settings say {required}"
    return ""


def _write(setup: RunSetup, choice: Choice) -> None:
    settings = setup.settings
    record = {
        **setup.facts(),
        "data": [data.name for data in setup.data],
        "questions": len(choice.chosen.accuracy),
        "budget": choice.budget,
        "tried": choice.tried,
        "chosen": choice.chosen.to_json(),
        "best": choice.best.to_json(),
        "standard_error": choice.error,
        "baseline": choice.baseline.to_json(),
        "candidates": [
            candidate.to_json()
            for candidate in sorted(choice.finalists, key=lambda candidate: candidate.cost)
        ],
    }
    (settings.output / "calibration.json").write_text(json.dumps(record, indent=1) + "\n")
    _plot(choice, settings.output / "plots" / "calibration.png")


def read_mirl_json(model: Path, target: Path) -> dict[str, Any]:
    """Return the entries of `target`, or of the model's `mirl.json` where there is no such file yet.

    Empty where there is neither. `ModelSettings.load` checks the model's.

    Raises:
        ConfigError: the file can't be read.
    """
    path = target if target.is_file() else model / "mirl.json"
    if not path.is_file():
        return {}
    try:
        mirl_json = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path} is not readable JSON: {error}", param="output") from error
    if not isinstance(mirl_json, dict):
        raise ConfigError(f"{path} must hold a JSON object", param="output")
    return mirl_json


def options_text(candidate: Candidate) -> str:
    options = dict(candidate.options)
    weight = options.pop("mi_weight")
    parts = [f"λ={weight:g}" if isinstance(weight, float) else f"λ={weight}"]
    parts += [f"{short}={options.pop(name)}" for name, short in _SHORT.items()]
    parts += [str(options.pop("estimator")), f"per {options.pop('normalize')}"]
    return " ".join([*parts, *(f"{name}={value}" for name, value in options.items() if value)])


def _figures(candidate: Candidate) -> str:
    words = f", {options_text(candidate)}" if candidate.options else ""
    return f"{100 * candidate.mean:.1f}% at {candidate.cost:.0f} tokens{words}"


_SHORT = {"descriptions": "N", "keep": "k", "forks": "m"}


def _print_choice(choice: Choice) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="no cheaper candidate is as accurate", title_justify="left")
    for head in ("tokens", "accuracy, %"):
        table.add_column(head, justify="right")
    table.add_column("options")
    for candidate in frontier(choice.finalists):
        mark = "  ← chosen" if candidate is choice.chosen else ""
        table.add_row(f"{candidate.cost:.0f}", f"{100 * candidate.mean:.1f}", options_text(candidate) + mark)
    console = Console()
    console.print(table)
    console.print(
        f"sc@16+stop: {_figures(choice.baseline)}; "
        f"budget {choice.budget:.0f} tokens\n"
        f"best within it: {_figures(choice.best)}\n"
        f"{_reason(choice)}: {_figures(choice.chosen)}\n"
        "These are the figures it was chosen by, and so too good: report it on test.",
        markup=False,
        highlight=False,
    )


def _reason(choice: Choice) -> str:
    """Return why the chosen candidate was chosen, with the standard error that the rule allows for."""
    if choice.chosen is choice.best:
        return "chosen, since none cheaper is within one standard error of it"
    if choice.error > 0:
        return f"chosen, the cheapest within one standard error ({100 * choice.error:.1f} points)"
    n = len(choice.chosen.accuracy)
    hidden = 100 * (1 - 0.025 ** (1 / n))
    return (
        f"chosen, the cheapest of those that are equal on all {n} questions (elsewhere they may differ by "
        f"{hidden:.1f} points)"
    )


def _print_confidence(fitted: Fitted) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if fitted.calibration is None:
        console.print(f"confidence stays the vote share: {fitted.left_out}", markup=False, highlight=False)
        return
    table = Table(box=box.SIMPLE_HEAD, title="confidence, % (ECE, points)", title_justify="left")
    for head in ("data", "right", "vote share", "calibrated"):
        table.add_column(head, justify="left" if head == "data" else "right")
    for row in fitted.rows:
        table.add_row(
            row.data,
            f"{100 * row.right:.1f}",
            f"{100 * row.share:.1f} ({100 * row.share_error:.1f})",
            f"{100 * row.confidence:.1f} ({100 * row.confidence_error:.1f})",
        )
    console.print(table)
    weights = fitted.calibration
    console.print(
        f"p(right) = logistic({weights.intercept:g} {weights.vote_share:+g} × vote share "
        f"{weights.distinct_share:+g} × distinct descriptions per usable one)\n"
        "Fitted on these questions: report it on test.",
        markup=False,
        highlight=False,
    )


def _plot(choice: Choice, path: Path) -> None:
    from mirl_core.tasks.plotting import method_colour, panels, save

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (axis,) = panels(1, width=6.4, height=4.2)
    by_cost = sorted(choice.finalists, key=lambda candidate: candidate.cost)
    best = frontier(by_cost)
    entries = {
        "candidates": axis.scatter(
            [candidate.cost for candidate in by_cost],
            [100 * candidate.mean for candidate in by_cost],
            s=16,
            color="0.65",
        ),
        "frontier": axis.plot(
            [candidate.cost for candidate in best],
            [100 * candidate.mean for candidate in best],
            color="0.3",
            linewidth=1.4,
            zorder=3,
        )[0],
        "chosen": axis.scatter(
            [choice.chosen.cost],
            [100 * choice.chosen.mean],
            s=90,
            marker="*",
            color=method_colour("mirl"),
            zorder=5,
        ),
        "sc@16+stop": axis.scatter(
            [choice.baseline.cost],
            [100 * choice.baseline.mean],
            s=40,
            marker="s",
            color=method_colour("sc@16+stop"),
            zorder=4,
        ),
        "budget": axis.axvline(choice.budget, color="0.4", linewidth=1, linestyle=":"),
    }
    axis.set_xlabel("generated + scored tokens a question", fontsize=8.5)
    axis.set_ylabel("accuracy on these dev questions, %", fontsize=8.5)
    axis.set_title(f"{choice.tried} settings tried, {len(by_cost)} measured on all questions", fontsize=10)
    save(figure, path, entries)
