"""`mirl-eval`: measure models and gates.

Bad input is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mirl_core.errors import ConfigError

app = typer.Typer(name="mirl-eval", help="Measure models and gates.", add_completion=False)


class Part(StrEnum):
    """Which data of the worlds."""

    dev = "dev"
    test = "test"


@app.callback()
def _root() -> None:
    """Measure models and gates."""


@app.command("model-card")
def model_card(
    output: Annotated[Path, typer.Option(help="Folder for bundled-model.md and its images.")],
    model: Annotated[Path | None, typer.Option(help="Model folder; the bundled model if not given.")] = None,
    scenes: Annotated[int, typer.Option(min=24, help="Digits scenes per split.")] = 1500,
    part: Annotated[Part, typer.Option(help="Data to measure on.")] = Part.test,
    notes: Annotated[Path | None, typer.Option(help="Markdown to put under the table of bounds.")] = None,
) -> None:
    """Measure the bundled model on vLLM and write its report."""
    from mirl_core.bundled import model_path
    from mirl_core.evaluation.model_card import write_report

    folder = model_path() if model is None else model
    try:
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} holds no model (config.json is missing)", param="model")
        try:
            words = "" if notes is None else notes.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read notes {notes}: {error}", param="notes") from error
        write_report(folder, output, scenes, part.value, lambda line: typer.echo(line, err=True), words)
    except ConfigError as error:
        typer.echo(f"mirl-eval: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"wrote {output / 'bundled-model.md'}")


# typer carries its own copy of click and exports one leaf of its tree of usage errors; this is their root.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Entry point of the command."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except _UsageError as error:
        typer.echo(f"mirl-eval: {' '.join(str(error).split())}", err=True)
        code = 2
    except typer.Abort:
        code = 130
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
