"""vLLM's own flags of `mirl-serve`, parsed by vLLM's parser with MIRL's defaults (see `cli.main`)."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from mirl_core.bundled import CHARTS, MODELS, resolve
from mirl_server.cli.flags.server import EPILOG, UsageError, mirl_parser
from mirl_server.cli.flags.vllm import unrecognized
from mirl_server.settings.files import SECTION
from mirl_server.settings.server import ServerSettings

NO_DOMAIN = "no-domain-is-allowed.invalid"
SHUTDOWN_TIMEOUT = 20
"""Seconds. With `multi_process.AFTER_PATIENCE` it is below the 30 s that Kubernetes gives a pod."""


def parse_vllm(arguments: list[str]) -> argparse.Namespace:
    """Parse `arguments` by vLLM's own parser, with MIRL's defaults.

    Raises:
        UsageError: a flag is unknown or its value wrong.
    """
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from mirl_server.vllm.names import make_arg_parser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            prefix, _, unknown = message.partition("unrecognized arguments: ")
            if unknown and not prefix:
                known = {*self._option_string_actions, *mirl_parser()._option_string_actions}
                message = unrecognized(unknown.split(), known)
            raise UsageError(message)

        def load_config_file(self, file_path: str) -> list[str]:
            """Return the flags of a configuration file without MIRL's section."""
            flags: list[str] = super().load_config_file(file_path)
            while f"--{SECTION}" in flags:
                at = flags.index(f"--{SECTION}")
                del flags[at : at + 2]
            return flags

    parser = make_arg_parser(Parser(prog="mirl-serve", epilog=EPILOG, allow_abbrev=False))
    for action in parser._actions:
        if action.dest == "log_level":
            action.type = str.upper
    cpu = current_platform.is_cpu()
    parser.set_defaults(**server_defaults(cpu))
    try:
        args: argparse.Namespace = parser.parse_args(arguments)
    except (ValueError, OSError, AssertionError) as error:  # --config: no such file, not YAML
        raise UsageError(str(error)) from error
    args.subparser = "serve"
    if cpu:
        _complete_for_cpu(args)
    args.model = args.model_tag or args.model or CHARTS.name  # the flag, or in --config
    if args.model in MODELS:
        args.served_model_name = args.served_model_name or [args.model]
        args.model = resolve(args.model)
    elif args.model.startswith("~"):  # a shell leaves the ~ of `--model=~/m`
        args.model = str(Path(args.model).expanduser())
    return args


def server_defaults(cpu: bool) -> dict[str, Any]:
    """Return MIRL's defaults for vLLM's flags."""
    from mirl_core.engines.vllm.arguments import cpu_engine_args

    engine = cpu_engine_args({}) if cpu else {}
    engine.pop("distributed_executor_backend", None)  # depends on other flags
    return {
        **engine,
        "model": None,
        "host": "127.0.0.1",
        "allowed_media_domains": [NO_DOMAIN],
        "disable_uvicorn_access_log": True,  # MIRL logs a line for each request
        "allowed_origins": [],
        "h11_max_incomplete_event_size": 65536,
        "h11_max_header_count": 128,
        "disable_access_log_for_endpoints": "/health,/ready,/metrics",
        "shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


def executor(flags: Mapping[str, Any]) -> str | None:
    """Return the executor that fits the parallelism on the CPU; None: vLLM's own choice.

    Args:
        flags: by name, with dashes or underscores.
    """
    from mirl_core.engines.vllm.arguments import cpu_engine_args

    names = {name.replace("-", "_"): value for name, value in flags.items()}
    sizes = {name: value for name, value in names.items() if name.endswith("_parallel_size")}
    backend: str | None = cpu_engine_args(sizes).get("distributed_executor_backend")
    return backend


def _complete_for_cpu(args: argparse.Namespace) -> None:
    """Set the executor, and the environment variables of the CPU backend."""
    from mirl_core.engines.vllm.arguments import cpu_environment

    if args.distributed_executor_backend is None:
        args.distributed_executor_backend = executor(vars(args))
    for name, value in cpu_environment(vars(args)).items():
        os.environ.setdefault(name, value)


def close_without_plugin(args: argparse.Namespace, settings: ServerSettings) -> None:
    """Check MIRL's API keys; where there are keys, set a random key for vLLM, which refuses every request.

    MIRL's authentication replaces vLLM's check when vLLM attaches the plugin. vLLM does not attach it where
    the model can't generate: such a server then refuses all requests and is not open.

    Raises:
        ConfigError: the key file, or the environment variable with keys, is wrong.
    """
    from mirl_server.access.keys import make_keyring

    if make_keyring(settings.access) and not args.api_key and not os.environ.get("VLLM_API_KEY"):
        args.api_key = [secrets.token_hex(32)]


def unlike_vllm(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that differ from vLLM's defaults, MIRL's defaults included, as YAML values."""
    from pydantic_core import to_jsonable_python
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from mirl_server.vllm.names import make_arg_parser

    defaults = vars(make_arg_parser(FlexibleArgumentParser()).parse_args([]))
    return {
        name.replace("_", "-"): to_jsonable_python(getattr(args, name), fallback=str)
        for name, default in sorted(defaults.items())
        if name not in ("config", "model_tag") and getattr(args, name) != default
    }
