"""`mirl-train`: train models from recipes.

Bad input gives one line on standard error and exit code 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mirl_core.tasks.command_line import run

app = typer.Typer(
    name="mirl-train", help="Train models from recipes.", no_args_is_help=True, add_completion=False
)


@app.callback()
def _root() -> None:
    """Train models from recipes."""


@app.command()
def sft(
    config: Annotated[Path, typer.Option(help="Recipe (YAML) of one supervised stage.")],
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop after this long and leave a checkpoint; run again to go on."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Use this folder instead of the recipe's.")] = None,
    init: Annotated[
        list[Path] | None, typer.Option(help="Use these finished stages instead of the recipe's.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="When finished, write the Hugging Face folder here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Supervised stages of the bundled model: `lm`, `vision`, `joint`."""
    from mirl_core.training.recipe import load_recipe

    recipe = load_recipe(config)
    changes: dict[str, object] = {}
    if output is not None:
        changes["output"] = output
    if init:
        changes["init"] = tuple(init)
    recipe = recipe.model_copy(update=changes)
    if dry_run:
        typer.echo(recipe.model_dump_json(indent=2))
        return
    from mirl_core.training.sft.console import run_stage

    finished = run_stage(recipe, max_seconds, export)
    typer.echo("finished" if finished else "stopped on time; run the same command again to go on")


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
        bool, typer.Option(help="Check the recipe, print it with what it will take, and stop.")
    ] = False,
) -> None:
    """Reinforcement learning: MIRL's decoupled rewards, or GRPO. Run the same command again to resume."""
    from mirl_core.training.rl.distributed.process_group import ProcessGroup
    from mirl_core.training.rl.recipe.checks import check, dump, load_rl_recipe, parse_changes

    wanted = parse_changes(changes or ()) | ({} if output is None else {"output": str(output)})
    recipe = load_rl_recipe(config, wanted)
    world = ProcessGroup.from_environment().world
    check(recipe, world)
    if dry_run:
        from mirl_core.training.rl.recipe.estimate import estimate

        lines = estimate(recipe, world).lines()
        typer.echo(dump(recipe) + "".join(f"# {line}\n" for line in lines), nl=False)
        return
    from mirl_core.training.rl.run import run_blocking

    finished = run_blocking(recipe, max_seconds)
    typer.echo("finished" if finished else "stopped on time; run the same command again to go on")


@app.command()
def study(
    plan: Annotated[Path, typer.Option(help="Plan (YAML): a base recipe, runs by name with changes, seeds.")],
    output: Annotated[Path, typer.Option(help="Folder; every run gets NAME/seed-S in it.")],
    max_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no step after this long; run again to go on.")
    ] = None,
) -> None:
    """Several runs one after the other. What is finished is kept; run the same command again to go on."""
    from mirl_core.training.rl.recipe.study import load_plan, run_study

    for line in run_study(load_plan(plan), output, max_seconds):
        typer.echo(line)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[Path, typer.Option(help="Folder for report.md, plots and pages of trajectories.")],
    baseline: Annotated[
        str | None, typer.Option(help="Whose final accuracy is to be reached; the grpo run if not given.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="As if every run had ended after so many steps.")
    ] = None,
) -> None:
    """Plots and tables of one or more runs of `rl`; those that differ only in their seed are one line."""
    from mirl_core.training.rl.report.markdown import write_report

    for path in write_report(runs, output, baseline, steps):
        typer.echo(f"wrote {path}")


def main() -> NoReturn:
    """Run the command line."""
    run(app, "mirl-train")


if __name__ == "__main__":
    main()
