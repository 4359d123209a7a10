"""The launcher: runs vLLM's server with MIRL in it, to the exit code of its process.

Exit codes: 0 stop by a signal (SIGTERM, SIGINT); 2 an error in the command line or a setting; 3 the engine,
or one of several API servers, died, or the engine did not start; 130 Ctrl-C before the server serves; 1 any
other error, with a traceback.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pydantic

from mirl_core.config import ModelSettings
from mirl_server.cli.flags import UsageError
from mirl_server.settings.server import ServerSettings, default_options
from mirl_server.vllm.multi_process import DEAD_ENGINE, engine_died, run_multi_process
from mirl_server.vllm.parent_death import LAUNCHER

ENGINE_DIED = 3
INTERRUPTED = 130
NOT_STARTED = "core initialization"
"""A phrase in vLLM's RuntimeError, which has no class of its own, for an engine that does not start."""


def serve(arguments: list[str], settings: ServerSettings) -> int:
    """Parse vLLM's flags and run its server to its end; return the exit code.

    Raises:
        UsageError: a flag is unknown or its value wrong, at once or once vLLM knows the model.
    """
    signal.signal(signal.SIGTERM, stop_start_up)
    # Not at the top: importing vLLM takes seconds, and a SIGTERM meanwhile must end the process.
    from vllm.logger import configure_logging_from_args

    from mirl_server.vllm.flags import close_without_plugin, parse_vllm
    from mirl_server.vllm.names import cli_env_setup, validate_parsed_serve_args

    cli_env_setup()
    args = parse_vllm(arguments)
    if hasattr(args, "log_level"):  # only where the flag was given
        os.environ["VLLM_LOGGING_LEVEL"] = args.log_level  # read by logging.json, and by other processes
    close_without_plugin(args, settings)
    try:
        configure_logging_from_args(args)
        validate_parsed_serve_args(args)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(str(error)) from error
    check_model(args, settings)
    return run(args, settings)


def changed_flags(arguments: list[str], settings: ServerSettings) -> dict[str, Any]:
    """Return vLLM's flags that differ from vLLM's defaults, as YAML values.

    Raises:
        UsageError: a flag is unknown or its value wrong, or the model's folder does not exist.
    """
    from mirl_server.vllm.flags import parse_vllm, unlike_vllm

    args = parse_vllm(arguments)
    check_model(args, settings)
    return unlike_vllm(args)


def check_model(args: argparse.Namespace, settings: ServerSettings) -> None:
    """Check the model's folder and settings before the engine starts.

    Raises:
        UsageError: the model is a path that does not exist.
        ConfigError: its `mirl.json` is wrong.
    """
    looks_like_path = args.model.startswith((".", "/", "~"))
    if looks_like_path and not Path(args.model).expanduser().exists():
        raise UsageError(f"there is no model at {args.model}")
    where = settings.calibration or Path(args.model)
    default_options(ModelSettings.load(where) or ModelSettings(), settings)


def run(args: argparse.Namespace, settings: ServerSettings) -> int:
    """Run the server that vLLM's parsed flags describe, to its end; return the exit code.

    Raises:
        UsageError: vLLM refuses a flag once it knows the model.
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
    except RuntimeError as error:
        if NOT_STARTED not in str(error):
            raise
        return _failed(f"the engine did not start: {error}")
    return _failed(died) if died else 0


def _failed(why: str) -> int:
    print(f"mirl-serve: error: {why}", file=sys.stderr, flush=True)
    return ENGINE_DIED


def _is_multi_process(args: argparse.Namespace) -> bool:
    """Return whether vLLM's own dispatcher must run: several API servers, or an engine elsewhere."""
    import vllm.envs as envs

    multiple = args.data_parallel_size > 1 or (args.api_server_count or 1) != 1
    elsewhere = args.headless or args.grpc or args.data_parallel_multi_port_external_lb
    return bool(multiple or elsewhere or envs.VLLM_USE_RUST_FRONTEND)


def run_single_process(args: argparse.Namespace) -> str | None:
    """Run vLLM's `run_server` in this process; return which process died, or None.

    The one difference is the handler of a SIGTERM during start-up: vLLM's raises KeyboardInterrupt, which
    pyzmq swallows while vLLM waits for its engine, and the server then hangs until a second signal (seen with
    vLLM 0.32 and pyzmq 27). Once the server serves, the plugin's handlers apply.
    """
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.system_utils import decorate_logs

    from mirl_server.http.uvicorn_protocol import http_protocol

    async def run() -> None:
        address, listening = setup_server(args, reuse_port=False)
        await run_server_worker(address, listening, args, http=http_protocol(args.mirl.http))

    args.api_server_count = None
    decorate_logs("APIServer", skip_if_decorated=True)
    uvloop.run(run())
    # Only the exit is left: no signal may change its code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return DEAD_ENGINE if engine_died(args) else None


def stop_start_up(*_: object) -> None:
    """Handle a SIGTERM before the server serves: end the child processes, then this one, without a drain."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(3)
        child.kill()
    os._exit(0)
