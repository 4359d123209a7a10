"""`mirl-train`: train models from recipes.

Bad input is one line on standard error and exit code 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mirl_core.command_line import run

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
    from mirl_core.training.console import run_stage

    finished = run_stage(recipe, max_seconds, export)
    typer.echo("finished" if finished else "stopped on time; run the same command again to go on")


def main() -> NoReturn:
    """Entry point of the command."""
    run(app, "mirl-train")


if __name__ == "__main__":
    main()
