"""`mirl-eval`: measure models and gates.

Bad input is one line on standard error and exit code 2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mirl_core.errors import ConfigError
from mirl_core.evaluation.planning.command import plan_command
from mirl_core.tasks.command_line import run as run_app
from mirl_core.tasks.command_line import status

app = typer.Typer(name="mirl-eval", help="Measure models and gates.", add_completion=False)
app.command("plan")(plan_command)


class Part(StrEnum):
    """Part of the worlds' data."""

    dev = "dev"
    test = "test"


class ForkImage(StrEnum):
    """Whether a chain sees the picture."""

    keep = "keep"
    drop = "drop"


# Options that several commands share.
ModelOption = Annotated[
    Path | None,
    typer.Option(
        help="Model folder, or mirl-charts or mirl-tiny; the bundled model of the data if not given."
    ),
]
DataOption = Annotated[
    str, typer.Option(help="Data sets, with commas: digits/iid, easy-vqa, FILE.jsonl, hf:NAME.")
]
SeedOption = Annotated[int, typer.Option(help="Of the questions, the samples and the draws.")]
DescriptionsOption = Annotated[int, typer.Option(min=1, help="Descriptions banked per question.")]
ForksOption = Annotated[int, typer.Option(min=1, help="Chains banked per description.")]
EstimatorsOption = Annotated[str, typer.Option(help="Image-free terms to bank: text, blank, reference.")]
ReferencesOption = Annotated[int, typer.Option(min=1, help="Pictures of the reference estimator.")]
ForkImageOption = Annotated[
    ForkImage | None, typer.Option(help="Whether chains see the picture; the model's setting if not given.")
]
MaxTokensOption = Annotated[int, typer.Option(min=2, help="Longest trajectory, description and chain.")]
MappingOption = Annotated[
    Path | None, typer.Option(help="YAML file that maps an hf: data set's columns; ready ones need none.")
]

BrowseOption = Annotated[
    int, typer.Option(min=0, help="Questions of each data set in questions.html, at most; 0: no such page.")
]


@app.callback()
def _root() -> None:
    """Measure models and gates."""


@app.command("run")
def run(
    data: DataOption,
    output: Annotated[Path, typer.Option(help="Folder for the bank, figures, report and plots.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, with commas: direct, sc@16, sc@16+stop, mirl, steered, 'mirl(keep=3)', …."
        ),
    ] = "direct,greedy,sc@16,sc@16+stop,mirl,confidence,random,none",
    model: ModelOption = None,
    n: Annotated[int, typer.Option(min=1, help="Questions per data set, at most.")] = 1000,
    skip: Annotated[int, typer.Option(min=0, help="Leave out the first so many of each data set.")] = 0,
    part: Annotated[str, typer.Option(help="dev to choose settings on, test to report.")] = "test",
    seed: SeedOption = 0,
    replays: Annotated[int, typer.Option(min=1, help="Replays of every question per method.")] = 8,
    live: Annotated[str, typer.Option(help="Methods to also run end to end, once a question.")] = "",
    live_n: Annotated[
        int | None, typer.Option(min=1, help="Live runs on the first so many questions; all if not given.")
    ] = None,
    descriptions: DescriptionsOption = 16,
    forks: ForksOption = 3,
    estimators: EstimatorsOption = "text,blank",
    references: ReferencesOption = 8,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="λ of each description to decode, with commas: 0,0.5,1; what the methods need if not given."
        ),
    ] = None,
    temperatures: Annotated[
        str | None,
        typer.Option(help="Further temperatures to sample at: 0.3,0.5; what the methods need if not given."),
    ] = None,
    fork_image: ForkImageOption = None,
    max_tokens: MaxTokensOption = 512,
    mapping: MappingOption = None,
    browse: BrowseOption = 100,
) -> None:
    """Sample every question once, replay methods on the samples, and report.

    Run the same command again to continue after an interruption, or with other --methods to replay those:
    what is in the output folder's bank is never sampled twice.
    """
    status("mirl-eval", f"loading; then {data} on {model or 'the bundled model'}")
    from mirl_core.evaluation.report.summary import read_summary
    from mirl_core.evaluation.report.terminal import print_summary
    from mirl_core.evaluation.run.command import command_line, names, numbers, run_blocking
    from mirl_core.evaluation.run.setup import RunSettings

    settings = RunSettings(
        model=_model(model, names(data)),
        data=names(data),
        methods=methods,
        output=output,
        live=live,
        live_n=live_n,
        n=n,
        skip=skip,
        part=part,
        seed=seed,
        descriptions=descriptions,
        forks=forks,
        replays=replays,
        estimators=names(estimators),
        references=references,
        contrast=numbers(contrast, "contrast"),
        temperatures=numbers(temperatures, "temperatures"),
        fork_image=fork_image,
        max_tokens=max_tokens,
        mapping=mapping,
        browse=browse,
        command=command_line(),
    )
    run_blocking(settings)
    typer.echo(f"wrote {output / 'summary.json'}, {output / 'report.md'} and {output / 'plots'}")
    if browse:
        typer.echo(f"wrote {output / 'questions.html'}: open it to look at the questions")
    print_summary(read_summary(output))


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    show: Annotated[
        str | None,
        typer.Option(
            help="Methods in the plots and in questions.html, with commas; all if not given. Tables have all."
        ),
    ] = None,
    browse: BrowseOption = 100,
) -> None:
    """Draw a run's report and plots anew from its summary.json, and print its table.

    questions.html is made anew from the run's bank, its questions/ and its pictures/.
    """
    from mirl_core.evaluation.methods.parsing import split
    from mirl_core.evaluation.report import write_report
    from mirl_core.evaluation.report.browser import browse_folder
    from mirl_core.evaluation.report.summary import read_summary
    from mirl_core.evaluation.report.terminal import print_summary

    methods = None if show is None else split(show)
    for path in write_report(folder, methods):
        typer.echo(f"wrote {path}")
    if page := browse_folder(folder, browse, methods):
        typer.echo(f"wrote {page}")
    print_summary(read_summary(folder))


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(help="Run folder, or FOLDER:method.")],
    b: Annotated[str, typer.Argument(help="Run folder, or FOLDER:method.")],
    method_a: Annotated[str | None, typer.Option(help="Method of the first run.")] = None,
    method_b: Annotated[str | None, typer.Option(help="Method of the second run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two methods, or two runs, on the questions that both answered.

    Without a method: every method that both runs have.
    """
    from mirl_core.evaluation.measures.comparison import compare_runs, read_side
    from mirl_core.evaluation.report.summary import strict
    from mirl_core.evaluation.report.terminal import print_comparison

    rows = compare_runs(read_side(a, method_a), read_side(b, method_b))
    if as_json:
        typer.echo(json.dumps(strict([row.to_json() for row in rows]), indent=1, allow_nan=False))
    else:
        print_comparison(rows)


@app.command("calibrate")
def calibrate(
    data: DataOption,
    bank: Annotated[Path, typer.Option(help="Output folder of a run on dev; missing questions are sampled.")],
    model: ModelOption = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write; the model folder's mirl.json if not given.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Questions per data set, at most.")] = 600,
    part: Annotated[str, typer.Option(help="Which data; never choose on what you report.")] = "dev",
    seed: SeedOption = 0,
    budget: Annotated[
        float | None,
        typer.Option(min=1, help="Most tokens a question; what sc@16+stop takes if not given."),
    ] = None,
    confidence_only: Annotated[
        bool, typer.Option("--confidence-only", help="Keep the options; fit the confidence of their votes.")
    ] = False,
    replays: Annotated[int, typer.Option(min=1, help="Replays of every question per setting.")] = 4,
    descriptions: DescriptionsOption = 16,
    forks: ForksOption = 3,
    estimators: EstimatorsOption = "text,blank",
    references: ReferencesOption = 8,
    fork_image: ForkImageOption = None,
    max_tokens: MaxTokensOption = 512,
    mapping: MappingOption = None,
) -> None:
    """Choose λ, N, k, m and estimator on dev data, fit the confidence, and write a model's mirl.json.

    It tunes a gate. Whether a gate, votes or greedy decoding pays on your model, mirl-eval advise says first.
    """
    status("mirl-eval", f"loading; then {data} on {model or 'the bundled model'}")
    from mirl_core.evaluation.calibration.run import calibrate_blocking, confidence_blocking
    from mirl_core.evaluation.run.command import command_line, names
    from mirl_core.evaluation.run.setup import RunSettings

    if output is None and model is None:
        raise ConfigError(
            "the bundled model's own mirl.json is not overwritten: name a file with --output", param="output"
        )
    if confidence_only and budget is not None:
        raise ConfigError("budget: --confidence-only keeps the options; leave --budget out", param="budget")
    folder = _model(model, names(data))
    settings = RunSettings(
        model=folder,
        data=names(data),
        methods="mirl",
        output=bank,
        n=n,
        part=part,
        seed=seed,
        descriptions=descriptions,
        forks=forks,
        replays=replays,
        estimators=names(estimators),
        references=references,
        fork_image=fork_image,
        max_tokens=max_tokens,
        mapping=mapping,
        command=command_line(),
    )
    target = folder / "mirl.json" if output is None else output
    if confidence_only:
        confidence_blocking(settings, target)
        typer.echo(f"wrote {target} and {bank / 'confidence.json'}")
    else:
        calibrate_blocking(settings, target, budget)
        typer.echo(f"wrote {target}, {bank / 'calibration.json'} and {bank / 'confidence.json'}")


@app.command("advise")
def advise(
    data: DataOption,
    output: Annotated[Path, typer.Option(help="Folder for the bank and the advice.")],
    model: ModelOption = None,
    n: Annotated[int, typer.Option(min=1, help="Questions per data set, at most.")] = 200,
    part: Annotated[str, typer.Option(help="Which data; never choose on what you report.")] = "dev",
    seed: SeedOption = 0,
    output_settings: Annotated[
        Path | None, typer.Option(help="mirl.json to write with the advised options; other entries stay.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Points of accuracy that you give up for fewer tokens.")
    ] = 1.0,
    smallest_gain: Annotated[
        float, typer.Option(min=0, help="Points of gain that the sample must be able to show.")
    ] = 5.0,
    replays: Annotated[int, typer.Option(min=1, help="Replays of every question per candidate.")] = 4,
    max_tokens: MaxTokensOption = 512,
    mapping: MappingOption = None,
) -> None:
    """Measure a model on some hundred questions, and say which way of answering pays on it.

    It compares greedy decoding, votes and the presets on the same samples, and advises the cheapest, unless
    another is better with certainty. Questions of a FILE.jsonl may lack the answer: the figures that need
    none are printed all the same. Run it before mirl-eval calibrate, which tunes a gate and its confidence.
    Run the same command again to continue after an interruption.

    Exit codes: 0: advice; 1: the engine failed; 2: bad input; 3: the sample decides nothing (too few
    questions, or no answers).
    """
    status("mirl-eval", f"loading; then {data} on {model or 'the bundled model'}")
    from mirl_core.evaluation.advise.run import AdviseSettings, advise_blocking
    from mirl_core.evaluation.run.command import command_line, names

    code = advise_blocking(
        AdviseSettings(
            model=_model(model, names(data)),
            data=names(data),
            output=output,
            model_name=None if model is None else str(model),
            target=output_settings,
            n=n,
            part=part,
            seed=seed,
            replays=replays,
            max_tokens=max_tokens,
            mapping=mapping,
            tolerance=tolerance / 100,
            smallest_gain=smallest_gain / 100,
            command=command_line(),
        )
    )
    raise typer.Exit(code)


@app.command("model-card")
def model_card(
    output: Annotated[Path, typer.Option(help="Folder for digits-model.md and its images.")],
    model: ModelOption = None,
    scenes: Annotated[int, typer.Option(min=24, help="Digits scenes per split.")] = 1500,
    part: Annotated[Part, typer.Option(help="Data to measure on.")] = Part.test,
) -> None:
    """Measure the bundled model on vLLM and write its report."""
    from mirl_core.evaluation.model_card import write_report

    folder = _model(model)
    # The making of the bundled model is no measurement: the text is hand-written, and only in its report.
    words = (Path(__file__).parent / "model_card" / "notes.md").read_text() if model is None else ""
    write_report(folder, output, scenes, part.value, lambda line: typer.echo(line, err=True), words)
    typer.echo(f"wrote {output / 'digits-model.md'}")


def _model(folder: Path | None, data: Sequence[str] = ()) -> Path:
    """Return the folder of the model that the command line names, or of the data's bundled model."""
    from mirl_core.bundled import for_data, resolve

    path = for_data(data).path if folder is None else Path(resolve(str(folder)))
    if not (path / "config.json").is_file():
        raise ConfigError(f"{path} holds no model (config.json is missing)", param="model")
    return path


def main() -> NoReturn:
    """Run the command on the process's arguments, and exit."""
    run_app(app, "mirl-eval")


if __name__ == "__main__":
    main()
