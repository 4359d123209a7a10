"""`mirl-train`: train models from recipes.

Bad input gives one line on standard error and exit code 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mirl_core.tasks.command_line import run
from mirl_core.training.state_files import WEIGHTS

app = typer.Typer(
    name="mirl-train", help="Train models from recipes.", no_args_is_help=True, add_completion=False
)


@app.callback()
def _root() -> None:
    """Train models from recipes."""


@app.command()
def sft(
    config: Annotated[Path, typer.Option(help="Recipe (YAML) of a supervised stage.")],
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop after this long and leave a checkpoint; run again to go on."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Use this folder instead of the recipe's.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Put the folders of all stages here, instead of the recipe's parents.")
    ] = None,
    init: Annotated[
        list[Path] | None, typer.Option(help="Use these finished stages instead of the recipe's.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="When finished, write the Hugging Face folder here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train a supervised stage of a bundled model, digits or charts. Run the same command again to resume."""
    from mirl_core.training.worlds import check_files, check_recipe, load_recipe

    changes: dict[str, object] = {}
    if output is not None:
        changes["output"] = output
    if init:
        changes["init"] = tuple(init)
    recipe = load_recipe(config, changes, root)
    check_recipe(recipe)
    if dry_run:
        typer.echo(recipe.model_dump_json(indent=2))
        return
    check_files(recipe, export)
    from mirl_core.training.sft.console import run_stage

    if not run_stage(recipe, max_seconds, export):
        typer.echo("stopped on time; run the same command again to go on")
        return
    weights = recipe.output / WEIGHTS
    typer.echo(
        f"finished: the weights are {weights}; the same command with --export FOLDER writes a model folder"
        if export is None
        else f"finished: the model is {export}, its weights for further stages are {weights}"
    )


@app.command()
def properties(
    folder: Annotated[Path, typer.Argument(help="A charts stage's folder, or a file of weights in it.")],
    kinds: Annotated[
        str, typer.Option(help="Kinds of scenes, with commas: iid, half, quarter, shifted, ambiguous.")
    ] = "iid",
    n: Annotated[int, typer.Option(min=1, help="Scenes of each kind, one question each.")] = 300,
    start: Annotated[
        int, typer.Option(min=0, help="First dev scene; training looks at the first 100.")
    ] = 1000,
    samples: Annotated[int, typer.Option(min=1, help="Votes per question.")] = 16,
    temperatures: Annotated[
        str, typer.Option(help="Temperatures of the votes, with commas.")
    ] = "0.4,0.6,0.8,1.0",
    parts: Annotated[
        str, typer.Option(help="Groups of figures, with commas.")
    ] = "calibration,forced,headroom",
    rough: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Written tables instead of pictures, this share of entries rough."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write all figures to this file (JSON).")] = None,
) -> None:
    """Measure a charts stage on dev data: gain of votes, calibration, faithfulness. Prints JSON per kind."""
    import json
    import time

    import torch

    from mirl_core.tasks.worlds.charts.scenes import KINDS
    from mirl_core.training.charts import properties as charts

    plan = charts.Plan(
        kinds=charts.read_words(kinds, KINDS, "kinds"),
        sections=charts.read_words(parts, charts.SECTIONS, "parts"),
        n=n,
        start=start,
        samples=samples,
        temperatures=charts.read_numbers(temperatures, "temperatures"),
        rough=rough,
    )
    torch.set_num_threads(1)
    out: dict[str, object] = {"folder": folder.name, "n": n, "start": start}
    begin = time.monotonic()
    for kind, figures in charts.measure_properties(folder, plan):
        out[kind] = figures
        typer.echo(f"{kind}: {time.monotonic() - begin:.0f} s", err=True)
        typer.echo(json.dumps({kind: figures}, indent=1))
        if output is not None:
            output.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
        begin = time.monotonic()


@app.command("charts-report")
def charts_report(
    figures: Annotated[
        list[Path], typer.Argument(help="Files that `properties --output` wrote, together with all kinds.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for bundled-model.md and its images.")],
) -> None:
    """Write the charts model's report from the figures of `properties`; nothing is measured again."""
    import json

    from mirl_core.errors import ConfigError
    from mirl_core.training.charts.report import write_report

    record: dict[str, object] = {}
    for path in figures:
        try:
            record |= json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} holds no figures: {error}", param="figures") from error
    write_report(record, output)
    typer.echo(f"wrote {output / 'bundled-model.md'}")


@app.command()
def rl(
    config: Annotated[Path, typer.Option(help="Recipe (YAML) of the run.")],
    output: Annotated[Path | None, typer.Option(help="Use this folder instead of the recipe's.")] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Begin no step after this long and leave a checkpoint; run again to go on."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the recipe: optimizer.kl=0.01. Repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Check the recipe, print it with its estimated cost, and stop.")
    ] = False,
) -> None:
    """Train by reinforcement learning: MIRL's decoupled rewards, or GRPO. Run the same command again to
    resume."""
    from mirl_core.training.rl.distributed.process_group import ProcessGroup
    from mirl_core.training.rl.recipe.checks import check, dump, load_rl_recipe, parse_changes

    overrides = parse_changes(changes or ()) | ({} if output is None else {"output": str(output)})
    recipe = load_rl_recipe(config, overrides)
    world = ProcessGroup.from_environment().world
    check(recipe, world)
    if dry_run:
        from mirl_core.training.rl.recipe.estimate import estimate

        lines = estimate(recipe, world).lines()
        typer.echo(dump(recipe) + "".join(f"# {line}\n" for line in lines), nl=False)
        return
    from mirl_core.training.rl.run import run_blocking
    from mirl_core.training.rl.state.run_folder import EXPORT, FINAL

    if run_blocking(recipe, max_seconds):
        typer.echo(f"finished: the model is {recipe.output / EXPORT / FINAL}")
    else:
        typer.echo("stopped on time; run the same command again to go on")


@app.command()
def study(
    plan: Annotated[Path, typer.Option(help="Plan (YAML): a base recipe, runs by name with changes, seeds.")],
    output: Annotated[Path, typer.Option(help="Folder; every run gets NAME/seed-S in it.")],
    max_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no step after this long; run again to go on.")
    ] = None,
) -> None:
    """Make several runs one after the other. Finished runs are kept; run the same command again to go on."""
    from mirl_core.training.rl.recipe.study import load_plan, run_study

    for line in run_study(load_plan(plan), output, max_seconds):
        typer.echo(line)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[Path, typer.Option(help="Folder for report.md, plots and pages of trajectories.")],
    baseline: Annotated[
        str | None, typer.Option(help="Run whose final accuracy is the target; default: the grpo run.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Report as if every run had ended after this many steps.")
    ] = None,
) -> None:
    """Write plots and tables of one or more runs of `rl`; runs that differ only in their seed are one
    line."""
    from mirl_core.training.rl.report.markdown import write_report

    for path in write_report(runs, output, baseline, steps):
        typer.echo(f"wrote {path}")


def main() -> NoReturn:
    """Run the command line."""
    run(app, "mirl-train")


if __name__ == "__main__":
    main()
