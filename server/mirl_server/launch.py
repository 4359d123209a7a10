"""Running vLLM's server with MIRL in it, to its exit code."""

from __future__ import annotations

import argparse
import multiprocessing
import os

import pydantic

from mirl_server.flags import UsageError
from mirl_server.settings import ServerSettings


def serve(args: argparse.Namespace, settings: ServerSettings) -> int:
    """Run the server that vLLM's parsed flags describe, to its end; returns the exit code.

    Raises:
        UsageError: vLLM refuses a flag once it knows the model.
    """
    from vllm.entrypoints.cli.serve import ServeSubcommand

    args.mirl = settings
    try:
        if _several_processes(args):
            ServeSubcommand.cmd(args)
        else:
            run_one(args)
    except pydantic.ValidationError as error:
        # vLLM checks engine flags against the model when it builds its configuration.
        raise UsageError(error.errors()[0]["msg"]) from error
    except KeyboardInterrupt as stop:
        # vLLM raises it with a word for a SIGTERM during start-up, without one for Ctrl-C.
        return 0 if stop.args else 130
    return 0


def _several_processes(args: argparse.Namespace) -> bool:
    """Whether vLLM's own dispatcher must start more than one API server with its engine."""
    import vllm.envs as envs

    several = args.data_parallel_size > 1 or (args.api_server_count or 1) != 1
    elsewhere = args.headless or args.grpc or args.data_parallel_multi_port_external_lb
    return bool(several or elsewhere or envs.VLLM_USE_RUST_FRONTEND)


def run_one(args: argparse.Namespace) -> None:
    """vLLM's `run_server`, but for the handler of a SIGTERM during start-up.

    vLLM's raises KeyboardInterrupt, which pyzmq swallows while vLLM waits for its engine: the server then
    hangs until a second signal (seen with vLLM 0.32 and pyzmq 27). Once it serves, vLLM's own handler holds.
    """
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.system_utils import decorate_logs

    from mirl_server.http_protocol import http_protocol

    async def run() -> None:
        address, listening = setup_server(args, reuse_port=False)
        await run_server_worker(address, listening, args, http=http_protocol(args.mirl.http))

    args.api_server_count = None
    decorate_logs("APIServer", skip_if_decorated=True)
    uvloop.run(run())


def stop_start_up(*_: object) -> None:
    """SIGTERM before the server serves: end what was started, then this process. Nothing needs draining."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(3)
        child.kill()
    os._exit(0)
