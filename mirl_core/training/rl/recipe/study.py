"""A study: several runs of one base recipe, each in a separate process.

    base: rl-digits-mirl.yaml         # relative to the plan
    seeds: [0, 1, 2]
    set: {steps: 200}                 # of all runs
    runs:
      - {name: mirl}
      - {name: grpo, set: {planner: grpo}}
      - {name: random, seeds: [0], set: {rollout.gate: random}}

Every run is OUTPUT/NAME/seed-S. A finished run is never repeated; an unfinished one continues. The first seed
of all runs comes before any second seed, so that an unfinished study already compares them. Runs are made one
after the other; starting the same study twice makes two runs side by side.
"""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import Field

from mirl_core.config import Settings
from mirl_core.errors import ConfigError
from mirl_core.training.recipe import Problem, read_yaml, validated
from mirl_core.training.rl.recipe.checks import check, dump, load_rl_recipe
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.state.run_folder import is_finished

__all__ = ["StudyPlan", "load_plan", "run_study"]


class StudyRun(Settings):
    """A run of a study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")]
    """Folder of the run, and its label in the report."""
    seeds: tuple[int, ...] | None = None
    """Seeds of the run; None: the study's."""
    set: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it
    """Differences from the base recipe, by dotted keys."""


class StudyPlan(Settings):
    """A study."""

    base: Path
    """The recipe from which all runs are derived."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds; each run is made once per seed."""
    set: dict[str, Any] = {}  # noqa: RUF012
    """Changes of all runs to the base recipe."""
    runs: Annotated[tuple[StudyRun, ...], Field(min_length=1)]
    """The runs in their order; the first seed of all runs, then the second."""


def load_plan(path: Path) -> StudyPlan:
    """Load the plan in a YAML file; the path of its base is relative to that file.

    Raises:
        ConfigError: the file or a key in it is wrong, two runs have the same name, or a run would not be
            made.
    """
    plan = validated(read_yaml(path), StudyPlan, path)
    names = [run.name for run in plan.runs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"recipe {path}: runs: two are called '{name}'", param="runs")
    for problem in _contradictions(plan):
        raise ConfigError(f"recipe {path}: {problem.key}: {problem.text}", param=problem.key)
    return plan.model_copy(update={"base": path.parent / plan.base})


def _contradictions(plan: StudyPlan) -> Iterator[Problem]:
    """Yield runs that would not be made, and changes that would have no effect."""
    sets = {"set": plan.set} | {f"runs.{index}.set": run.set for index, run in enumerate(plan.runs)}
    for key, changes in sets.items():
        for name in ("seed", "output"):
            if name in changes:
                yield Problem(f"{key}.{name}", f"a study gives each run its {name}; leave it out")
    for index, run in enumerate(plan.runs):
        if run.seeds is not None and not run.seeds:
            yield Problem(f"runs.{index}.seeds", f"'{run.name}' has no seed, so it is not made; name one")
    for key, seeds in [("seeds", plan.seeds)] + [
        (f"runs.{index}.seeds", run.seeds or ()) for index, run in enumerate(plan.runs)
    ]:
        if len(set(seeds)) < len(seeds):
            yield Problem(key, "a seed is named twice; name each once")


def run_study(
    plan: StudyPlan, output: Path, max_seconds: float | None = None, command: Sequence[str] = ()
) -> Iterator[str]:
    """Make the missing runs; yield a line about each run.

    Args:
        max_seconds: for the whole call.
        command: runs a recipe, with `--config FILE` appended; empty: `mirl-train rl` of this Python.

    Raises:
        ConfigError: a run's recipe is wrong; all are checked before the first begins.
        typer.Exit: a run failed or was stopped, with its exit code. Finished runs stay.
    """
    until = None if max_seconds is None else time.monotonic() + max_seconds
    rounds = zip_longest(*(_recipes(plan, run, output) for run in plan.runs))
    recipes = dict(named for round_ in rounds for named in round_ if named is not None)
    for recipe in recipes.values():
        check(recipe)
    for name, recipe in recipes.items():
        if is_finished(recipe):
            yield f"{name}: finished already"
            continue
        seconds_left = None if until is None else until - time.monotonic()
        if seconds_left is not None and seconds_left <= 0:
            yield "stopped on time; run the same command again to go on"
            return
        with _locked(recipe.output) as locked:
            if not locked:
                yield f"{name}: another process is at it"
                continue
            code = _run(
                recipe, seconds_left, command or (sys.executable, "-m", "mirl_core.training.cli", "rl")
            )
        if code:
            typer.echo(f"mirl-train: {name} ended with exit code {code}; run the same again", err=True)
            raise typer.Exit(code)
        yield f"{name}: {'finished' if is_finished(recipe) else 'stopped on time'}"


def _recipes(plan: StudyPlan, run: StudyRun, output: Path) -> Iterator[tuple[str, RLRecipe]]:
    for seed in plan.seeds if run.seeds is None else run.seeds:
        folder = output / run.name / f"seed-{seed}"
        changes: Mapping[str, Any] = {**plan.set, **run.set, "seed": seed, "output": str(folder)}
        yield f"{run.name}/seed-{seed}", load_rl_recipe(plan.base, changes)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Yield whether this study has locked the run; hold the lock until the run is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "study.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _run(recipe: RLRecipe, seconds: float | None, command: Sequence[str]) -> int:
    """Start one run, pass signals on to it, and return its exit code, as a shell reports it, at its end."""
    config = recipe.output / "study-recipe.yaml"
    config.write_text(dump(recipe), encoding="utf-8")
    words = [*command, "--config", str(config)]
    if seconds is not None:
        words += ["--max-seconds", str(max(seconds, 0.0))]
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        for child in started:
            child.send_signal(number)
        if not started:
            raise typer.Exit(128 + number)

    # Set before the child starts, so that no child is ever left behind.
    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    try:
        started.append(subprocess.Popen(words))  # noqa: S603  this Python, this package
        # On Ctrl-C a terminal signals the child itself. Set only now: a child inherits ignored signals.
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = started[0].wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code
