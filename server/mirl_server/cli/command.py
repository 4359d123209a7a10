"""What `mirl-serve` does with its arguments (see `main`)."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import NoReturn

from mirl_core import __version__
from mirl_core.config import ModelSettings
from mirl_core.engines.system_libraries import check_libnuma
from mirl_core.errors import ConfigError
from mirl_server.cli.dry_run import dry_run
from mirl_server.cli.early_checks import check_early
from mirl_server.cli.flags.server import UsageError, mirl_parser, settings_from_flags
from mirl_server.cli.flags.vllm import (
    VLLMFlags,
    check_version,
    read_vllm_flags,
    runs_on_cpu,
    vllm_version,
)
from mirl_server.observability.logs import CONFIG
from mirl_server.settings.files import stray_variables
from mirl_server.settings.server import ServerSettings, default_options

PLUGINS = ("mirl", "mirl_orphans")
"""MIRL's entry points in vLLM: the routes, and the hook that each process of vLLM runs."""


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    try:
        if any(argument.startswith("--help=") for argument in arguments):
            _show_help(arguments)
        args, rest = mirl_parser().parse_known_args(arguments)
        if args.version:
            print(f"mirl-serve {__version__} (vLLM {vllm_version() or 'not installed'})")
            return 0
        if args.help:
            mirl_parser().print_help()
            return 0
        settings = ServerSettings.load(**settings_from_flags(args))
        default_options(ModelSettings(), settings)
        for name in stray_variables(ServerSettings):
            print(f"mirl-serve: {name} is not a setting (docs/configuration.md lists them)", file=sys.stderr)
        flags = read_vllm_flags(rest, settings.config)
        if settings.engine.urls:
            return _gateway(flags, settings, dry=args.dry_run)
        if settings.config is not None:
            rest += ["--config", str(settings.config)]
        _prepare_environment(settings)
        if args.dry_run:
            print(dry_run(rest, flags, settings), end="")
            return 0
        return _serve(rest, settings, flags)
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


def _show_help(arguments: list[str]) -> NoReturn:
    """Print vLLM's help of one flag, a group, or all, and exit. It takes an import of vLLM.

    Raises:
        UsageError: vLLM is not installed, or an argument is wrong.
    """
    _need_vllm()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from mirl_server.vllm import launch

    launch.show_help(arguments)


def _need_vllm() -> None:
    if find_spec("vllm") is None:
        raise UsageError("vLLM is not installed: on a GPU, pip install 'mirl[gpu]'; on a CPU, make install")
    check_version(vllm_version())
    if runs_on_cpu():
        check_libnuma()


def _serve(arguments: list[str], settings: ServerSettings, flags: VLLMFlags) -> int:
    """Check what can be checked, then run vLLM's server with `arguments`, vLLM's own flags.

    Raises:
        UsageError: vLLM is not installed, or a flag, the address or the model is wrong.
        ConfigError: a file of settings is wrong.
    """
    _need_vllm()
    if not flags.unknown:
        check_early(flags, settings)
    from mirl_server.vllm import launch

    return launch.serve(arguments, settings, flags)


def _gateway(flags: VLLMFlags, settings: ServerSettings, *, dry: bool) -> int:
    """Run a gateway before the engines of the settings, or print its settings; return the exit code.

    Raises:
        UsageError: a package of the gateway is not installed, or a flag or the address is wrong.
        ConfigError: a setting is wrong.
    """
    missing = [name for name in ("fastapi", "uvicorn", "transformers") if find_spec(name) is None]
    if missing:
        raise UsageError(f"{missing[0]} is not installed: pip install 'mirl[gateway]'")
    from mirl_server.gateway import run as gateway

    if dry:
        print(gateway.dry_run(flags, settings), end="")
        return 0
    return gateway.serve(flags, settings)


def message_line(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())
