"""Entry point of the project's command lines: bad input is one line on standard error and exit code 2."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from mirl_core.errors import ConfigError

# typer carries its own copy of click and exports one leaf of its tree of usage errors; this is their root.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def status(name: str, text: str) -> None:
    """Show at once what the command `name` does, before slow imports; on a terminal only.

    Elsewhere bad input, which may follow, is one line.
    """
    if sys.stderr.isatty():
        typer.echo(f"{name}: {text}", err=True)


def run(app: typer.Typer, name: str) -> NoReturn:
    """Run the command `name` on the process's arguments, and exit."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (_UsageError, ConfigError) as error:
        # The text of a usage error leaves out the option that is meant.
        message = getattr(error, "format_message", error.__str__)()
        typer.echo(f"{name}: {' '.join(message.split())}", err=True)
        code = 2
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("mirl_core", "mirl_server")):
            raise
        typer.echo(f"{name}: {error.name} is not installed: pip install 'mirl[train,eval]'", err=True)
        code = 2
    except typer.Abort:
        code = 130
    sys.exit(code or 0)
