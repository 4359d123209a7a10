"""The launcher: runs vLLM's server with MIRL in it, to the exit code of its process.

Exit codes: 0 stop by a signal (SIGTERM, SIGINT); 2 an error in the command line or a setting; 3 the engine,
or one of several API servers, died, or the engine did not start; 130 Ctrl-C before the server serves; 1 any
other error, with its reason on the last line. A traceback comes with it once the server serves, or where the
operator chose a log level.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import pydantic

from mirl_core import __version__
from mirl_core.bundled import CHARTS, MODELS
from mirl_core.errors import MIRLError
from mirl_server.cli.early_checks import address_problem, check_early, is_address_error
from mirl_server.cli.flags.server import UsageError
from mirl_server.cli.flags.vllm import VLLMFlags, vllm_version
from mirl_server.cli.interrupts import INTERRUPTED, keep_from_children
from mirl_server.observability import quiet_start
from mirl_server.settings.server import ServerSettings
from mirl_server.vllm.multi_process import DEAD_ENGINE, engine_died, port_taken, run_multi_process
from mirl_server.vllm.parent_death import LAUNCHER

ENGINE_DIED = 3
NOT_STARTED = "core initialization"
"""A phrase in vLLM's RuntimeError, which has no class of its own, for an engine that does not start."""
_LOG_FLAGS = ("log-level", "log-config-file", "logging-config")


def serve(arguments: list[str], settings: ServerSettings, flags: VLLMFlags) -> int:
    """Parse vLLM's flags and run its server to its end; return the exit code.

    Args:
        flags: the same flags, as they were read without vLLM.

    Raises:
        UsageError: a flag is unknown or its value wrong, at once or once vLLM knows the model.
        ConfigError: a file of settings is wrong.
    """
    chosen = bool(flags.unknown) or any(name in flags.values for name in _LOG_FLAGS)
    quiet_start.begin(chosen or settings.log.format == "json")
    if quiet_start.is_quiet():
        print(
            f"mirl-serve {__version__} loads {flags.model or CHARTS.name} with vLLM {vllm_version()} …",
            flush=True,
        )
    try:
        return run(_parse(arguments, settings, flags), settings)
    finally:
        quiet_start.end()


def show_help(arguments: list[str]) -> NoReturn:
    """Print vLLM's own help and exit.

    Raises:
        UsageError: an argument is wrong.
    """
    from mirl_server.vllm.flags import parse_vllm

    parse_vllm(arguments)
    raise UsageError("--help=… takes the name of a flag or a group of flags")


def _parse(arguments: list[str], settings: ServerSettings, flags: VLLMFlags) -> argparse.Namespace:
    """Parse vLLM's flags by its own parser, and apply those that the server's start depends on."""
    from vllm.logger import configure_logging_from_args

    from mirl_server.vllm.flags import close_without_plugin, parse_vllm
    from mirl_server.vllm.names import cli_env_setup, validate_parsed_serve_args

    cli_env_setup()
    args = parse_vllm(arguments)
    if hasattr(args, "log_level"):  # only where the flag was given
        os.environ[quiet_start.LEVEL] = args.log_level  # read by logging.json, and by other processes
    if flags.unknown:
        check_early(_parsed(args), settings)
    close_without_plugin(args, settings)
    if quiet_start.is_quiet():
        if "uvicorn-log-level" not in flags.values:
            args.uvicorn_log_level = "warning"
        if (flags.model or CHARTS.name) in MODELS:
            args.use_tqdm_on_load = False  # it takes a moment
    try:
        configure_logging_from_args(args)
        validate_parsed_serve_args(args)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(str(error)) from error
    quiet_start.watch_logs()
    return args


def _parsed(args: argparse.Namespace) -> VLLMFlags:
    """Return flags that vLLM's parser has read in the form that the early checks take."""
    values = {name.replace("_", "-"): value for name, value in vars(args).items() if value is not None}
    values.pop("model-tag", None)
    return VLLMFlags(values)


def changed_flags(arguments: list[str], settings: ServerSettings) -> dict[str, Any]:
    """Return vLLM's flags that differ from vLLM's defaults, as YAML values.

    Raises:
        UsageError: a flag is unknown or its value wrong, or the model's folder does not exist.
    """
    os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"  # stdout is for the settings
    from mirl_server.vllm.flags import parse_vllm, unlike_vllm

    args = parse_vllm(arguments)
    check_early(_parsed(args), settings, to_start=False)
    return unlike_vllm(args)


def run(args: argparse.Namespace, settings: ServerSettings) -> int:
    """Run the server that vLLM's parsed flags describe, to its end; return the exit code.

    Raises:
        UsageError: vLLM refuses a flag once it knows the model, or another process has taken the port.
        ConfigError: a setting is wrong for this model.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    args.mirl = settings
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        died = run_multi_process(args) if _is_multi_process(args) else run_single_process(args)
    except pydantic.ValidationError as error:
        # vLLM checks engine flags against the model when it builds its configuration.
        raise UsageError(error.errors()[0]["msg"]) from error
    except KeyboardInterrupt as stop:
        # vLLM raises it with an argument for a SIGTERM during start-up, without one for Ctrl-C.
        return 0 if stop.args else INTERRUPTED
    except EngineDeadError:
        return _failed("the engine died while the server started")
    except (UsageError, MIRLError):
        raise
    except Exception as error:
        # vLLM and torch fail in a start with errors of any type; the user gets one line, not a traceback.
        if not quiet_start.is_starting():
            raise
        return _not_started(args, error)
    return _failed(died) if died else 0


def _not_started(args: argparse.Namespace, error: Exception) -> int:
    """Report a start that failed inside vLLM by its reason; return the exit code.

    Raises:
        UsageError: another process has taken the port since it was checked.
    """
    if is_address_error(error):
        raise UsageError(address_problem(error, args.host, args.port)) from error
    engine = isinstance(error, RuntimeError) and NOT_STARTED in str(error)
    if not engine and not quiet_start.is_quiet():
        traceback.print_exception(error)
    reason = quiet_start.reason() if engine else None
    why = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
    hint = f" ({quiet_start.WHOLE_LOG})" if quiet_start.is_quiet() else ""
    return _failed(f"the {'engine' if engine else 'server'} did not start: {why}{hint}", 3 if engine else 1)


def _failed(why: str, code: int = ENGINE_DIED) -> int:
    print(f"mirl-serve: error: {why}", file=sys.stderr, flush=True)
    return code


def _is_multi_process(args: argparse.Namespace) -> bool:
    """Return whether vLLM's own dispatcher must run: several API servers, or an engine elsewhere."""
    import vllm.envs as envs

    multiple = args.data_parallel_size > 1 or (args.api_server_count or 1) != 1
    elsewhere = args.headless or args.grpc or args.data_parallel_multi_port_external_lb
    return bool(multiple or elsewhere or envs.VLLM_USE_RUST_FRONTEND)


def run_single_process(args: argparse.Namespace) -> str | None:
    """Run vLLM's `run_server` in this process; return which process died, or None.

    The one difference is the handlers of signals during start-up (`mirl_server.cli.interrupts`): vLLM's for
    SIGTERM raises KeyboardInterrupt, which pyzmq swallows while vLLM waits for its engine, and the server
    then hangs until a second signal (seen with vLLM 0.32 and pyzmq 27). Once the server serves, the plugin's
    handlers apply.

    Raises:
        UsageError: vLLM refuses a flag about its parsers of answers, or another process has taken the port.
    """
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.system_utils import decorate_logs

    from mirl_server.http.uvicorn_protocol import http_protocol

    async def run() -> None:
        try:
            address, listening = setup_server(args, reuse_port=False)
        except (KeyError, ValueError, ImportError) as error:
            raise UsageError(str(error.args[0] if error.args else error)) from error
        await run_server_worker(address, listening, args, http=http_protocol(args.mirl.http))

    args.api_server_count = None
    decorate_logs("APIServer", skip_if_decorated=True)
    keep_from_children()
    uvloop.run(run())
    # Only the exit is left: no signal may change its code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if port_taken(args):
        raise UsageError(address_problem(OSError(errno.EADDRINUSE, ""), args.host, args.port))
    return DEAD_ENGINE if engine_died(args) else None
