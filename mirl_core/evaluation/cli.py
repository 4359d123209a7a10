"""`mirl-eval`: measure models and gates.

Bad input is one line on standard error and exit code 2.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mirl_core.command_line import run
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
) -> None:
    """Measure the bundled model on vLLM and write its report."""
    from mirl_core.bundled import model_path
    from mirl_core.evaluation.model_card import write_report

    folder = model_path() if model is None else model
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no model (config.json is missing)", param="model")
    # How the bundled model came about is no measurement: written by hand, and only in its own report.
    words = (Path(__file__).parent / "model_card" / "notes.md").read_text() if model is None else ""
    write_report(folder, output, scenes, part.value, lambda line: typer.echo(line, err=True), words)
    typer.echo(f"wrote {output / 'bundled-model.md'}")


def main() -> NoReturn:
    """Entry point of the command."""
    run(app, "mirl-eval")


if __name__ == "__main__":
    main()
