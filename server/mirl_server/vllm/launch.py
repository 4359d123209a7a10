"""Running vLLM's server with MIRL in it, and how its process ends.

Exit codes: 0 the server was asked to stop (SIGTERM, SIGINT); 2 the command line or a setting is wrong; 3 the
engine, or one of several API servers, died, or the engine did not start; 130 Ctrl-C before the server served;
1 anything else, with a traceback.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys

import pydantic

from mirl_server.cli.flags import UsageError
from mirl_server.settings.server import ServerSettings
from mirl_server.vllm.multi_process import DEAD_ENGINE, engine_died, run_several
from mirl_server.vllm.parent_death import LAUNCHER

ENGINE_DIED = 3
INTERRUPTED = 130
NOT_STARTED = "core initialization"
"""What vLLM says, in a RuntimeError without a type of its own."""


def serve(args: argparse.Namespace, settings: ServerSettings) -> int:
    """Run the server that vLLM's parsed flags describe, to its end; returns the exit code.

    Raises:
        UsageError: vLLM refuses a flag once it knows the model.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    args.mirl = settings
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        died = run_several(args) if _several_processes(args) else run_one(args)
    except pydantic.ValidationError as error:
        # vLLM checks engine flags against the model when it builds its configuration.
        raise UsageError(error.errors()[0]["msg"]) from error
    except KeyboardInterrupt as stop:
        # vLLM raises it with a word for a SIGTERM during start-up, without one for Ctrl-C.
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


def _several_processes(args: argparse.Namespace) -> bool:
    """Whether vLLM's own dispatcher must start more than one API server with its engine."""
    import vllm.envs as envs

    several = args.data_parallel_size > 1 or (args.api_server_count or 1) != 1
    elsewhere = args.headless or args.grpc or args.data_parallel_multi_port_external_lb
    return bool(several or elsewhere or envs.VLLM_USE_RUST_FRONTEND)


def run_one(args: argparse.Namespace) -> str | None:
    """vLLM's `run_server` in this process; says what died, if something did.

    But for the handler of a SIGTERM during start-up: vLLM's raises KeyboardInterrupt, which pyzmq swallows
    while vLLM waits for its engine, and the server then hangs until a second signal (seen with vLLM 0.32 and
    pyzmq 27). Once it serves, the plugin's handlers hold.
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
    # All that is left is to exit, with a code that says how it went: no signal may change that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return DEAD_ENGINE if engine_died(args) else None


def stop_start_up(*_: object) -> None:
    """SIGTERM before the server serves: end what was started, then this process. Nothing needs draining."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(3)
        child.kill()
    os._exit(0)
