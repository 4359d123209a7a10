"""The command `mirl-eval advise`: fills the bank, replays the candidates, and writes the advice.

OUTPUT/bank/                  the samples, as those of `mirl-eval run`
OUTPUT/questions/             one line a question: the outcomes of every candidate
OUTPUT/advice.json, advice.md, advice.png
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from mirl_core.config import ModelSettings, first_problem
from mirl_core.errors import ConfigError
from mirl_core.evaluation.advise.advice import Advice, weigh
from mirl_core.evaluation.advise.candidates import DESCRIPTIONS, FORKS, estimators_of, methods_text
from mirl_core.evaluation.advise.measures import slips
from mirl_core.evaluation.advise.report import terminal, write_advice
from mirl_core.evaluation.advise.rule import SMALLEST_GAIN, TOLERANCE, shares_chains
from mirl_core.evaluation.advise.settings import calibrate_command, served_settings, write_settings
from mirl_core.evaluation.calibration.run import read_mirl_json
from mirl_core.evaluation.measures.outcomes import write_rows
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.replay_bank import replay
from mirl_core.evaluation.run.command import EngineFactory, once, one_line, vllm_engine
from mirl_core.evaluation.run.needs import check
from mirl_core.evaluation.run.progress import Bars
from mirl_core.evaluation.run.setup import RunSettings, RunSetup
from mirl_core.families import find_settings
from mirl_core.tasks.file_names import file_name

__all__ = ["UNDECIDED", "AdviseSettings", "advise_blocking", "advise_run"]

UNDECIDED = 3
"""Exit code where the sample decides nothing."""


@dataclass(frozen=True, slots=True)
class AdviseSettings:
    """The command's options."""

    model: Path
    data: tuple[str, ...]
    output: Path
    model_name: str | None = None
    """The model as the command line names it; None: the bundled model of the data."""
    target: Path | None = None
    """The `mirl.json` to write; None: none is written."""
    n: int = 200
    """Questions per data set, at most."""
    part: str = "dev"
    seed: int = 0
    replays: int = 4
    """Replays of every question per candidate."""
    max_tokens: int = 512
    """Longest trajectory, description and chain; tokens."""
    mapping: Path | None = None
    """YAML file with an `hf:` data set's columns."""
    tolerance: float = TOLERANCE
    """See `mirl_core.evaluation.advise.rule.decide`; share."""
    smallest_gain: float = SMALLEST_GAIN
    command: str = ""
    """The command line, for the report."""

    def run_settings(self, model: ModelSettings) -> RunSettings:
        """Return the settings of the run that fills the bank.

        Raises:
            ConfigError: the two bounds of the rule don't fit, or the model's samples are all the same.
        """
        if not 0 <= self.tolerance < self.smallest_gain:
            raise ConfigError("smallest_gain: must be above the tolerance, which is 0 or more")
        if model.temperature == 0:
            raise ConfigError(
                "temperature: the model's mirl.json samples at 0, where all samples are equal; set more",
                param="temperature",
            )
        settings = RunSettings(
            model=self.model,
            data=self.data,
            methods=methods_text(model),
            output=self.output,
            n=self.n,
            part=self.part,
            seed=self.seed,
            descriptions=DESCRIPTIONS,
            forks=FORKS,
            replays=self.replays,
            estimators=estimators_of(model),
            max_tokens=self.max_tokens,
            mapping=self.mapping,
            command=self.command,
            unlabelled=True,
        )
        count = len(model.reference_images)
        return replace(settings, references=count) if count else settings


def advise_blocking(settings: AdviseSettings) -> int:
    """Run `advise_run` for a command line, print its result, and return the exit code."""
    # The target may be the model's own file, which the advice changes.
    run = settings.run_settings(find_settings(settings.model).settings)
    advice = one_line(advise_run(settings))
    for line in (terminal(advice), "", *_written(settings, run, advice)):
        typer.echo(line)
    return UNDECIDED if advice.advised is None else 0


async def advise_run(settings: AdviseSettings, engine_factory: EngineFactory | None = None) -> Advice:
    """Sample what the bank lacks, and write the advice and, where there is any, the `mirl.json`.

    Args:
        engine_factory: opens the engine when it is first needed; None: vLLM on the model.

    Raises:
        ConfigError: settings, data, folders or the `mirl.json` don't fit.
        RequestError, EngineError: the engine refused a question, or failed; finished questions stay.
    """
    model = find_settings(settings.model).settings
    if settings.output.is_file():
        raise ConfigError(f"output: {settings.output} is a file; name a folder", param="output")
    bars = Bars()
    setup = RunSetup(settings.run_settings(model), bars.status)
    run = setup.settings
    check(setup.methods(run.methods), setup.plan, setup.data)
    # Before hours go into filling a bank.
    mirl_json = _mirl_json(settings)
    (ranking,) = setup.methods("gate")
    assert isinstance(ranking, Gated), "the preset gates"
    rows = {}
    with bars:
        async with AsyncExitStack() as stack:
            await setup.fill(once(stack, engine_factory or vllm_engine(settings.model), bars), bars)
        questions = {data.name: setup.banked(data) for data in setup.data}
        shared = shares_chains(slips([line for lines in questions.values() for line in lines]))
        methods = setup.methods(methods_text(model, shared))
        for data in setup.data:
            with bars.bar(f"{data.name}: replaying", len(data.questions)) as bar:
                rows[data.name] = replay(questions[data.name], methods, run.replays, run.seed, bar.step)
            write_rows(settings.output / "questions" / f"{file_name(data.name)}.jsonl", rows[data.name])
        with bars.bar("statistics", 1):
            advice = weigh(
                questions, rows, setup.model_settings, ranking, settings.tolerance, settings.smallest_gain
            )
    write_advice(settings.output, advice, setup.facts() | {"data": [data.name for data in setup.data]})
    if settings.target is not None and advice.advised is not None:
        write_settings(settings.target, served_settings(mirl_json, advice.advised, advice.share_chains))
    return advice


def _mirl_json(settings: AdviseSettings) -> dict[str, Any]:
    """Return the entries of the `mirl.json` to write, or of the model's.

    Raises:
        ConfigError: the file can't be read or written, or `ModelSettings` has no such entries.
    """
    target = settings.target or settings.model / "mirl.json"
    if target.is_dir():
        raise ConfigError(f"output_settings: {target} is a folder; name a file", param="output_settings")
    mirl_json = read_mirl_json(settings.model, target)
    try:
        ModelSettings.model_validate(mirl_json)
    except ValidationError as error:
        message, field = first_problem(error, ModelSettings)
        raise ConfigError(f"{target}: {message}", param=field) from error
    return mirl_json


def _written(settings: AdviseSettings, run: RunSettings, advice: Advice) -> list[str]:
    """Return lines that name the written files and the next command."""
    lines = [f"wrote {settings.output / 'advice.md'} and {settings.output / 'advice.json'}"]
    if settings.target is None:
        return [*lines, *_options_text(advice)]
    if advice.advised is None:
        return [*lines, f"{settings.target} is not written: the sample decides nothing"]
    return [
        *lines,
        f"wrote {settings.target}; its confidence is the vote's share until you run",
        f"  {calibrate_command(run, settings.model_name, settings.target)}",
    ]


def _options_text(advice: Advice) -> list[str]:
    if advice.advised is None:
        return []
    options = served_settings({}, advice.advised, advice.share_chains)["options"]
    return ["options of the mirl.json (--output-settings FILE writes them):", f"  {json.dumps(options)}"]
