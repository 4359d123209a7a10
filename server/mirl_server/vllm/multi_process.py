"""Several API servers before one engine: vLLM's dispatcher, with all that a lone server has.

The dispatcher starts API servers and engines, and watches them. On the way from one process to several vLLM
loses two things that are put back here: what speaks HTTP on a connection, with the operator's limits, and an
API server's notice of its engine's death, for the engine is the dispatcher's child.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from mirl_server.handling.lifetime import Lifetime, patience

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

DEAD_ENGINE = "the engine died"
DEAD_SERVER = "an API server died"
AFTER_PATIENCE = 8
"""Seconds that an API server needs at most, from the end of its patience, or its engine's, to its own."""
ENGINE_SECONDS = 3.0
"""For an engine to end by itself, once nothing runs in it."""
_DIED = {"died unexpectedly": DEAD_ENGINE, "died with exit code": DEAD_SERVER}
"""What vLLM says, in RuntimeErrors without a type of their own: what that means."""


def run_multi_process(args: argparse.Namespace) -> str | None:
    """vLLM's dispatcher; says what died, if something did."""
    from vllm.entrypoints.cli import serve as dispatcher

    # Closed, a pipe tells of a death whoever of its readers was killed; an Event waits for each of them.
    told, end = multiprocessing.Pipe(duplex=False)
    # vLLM has parameters for neither; the dispatcher looks both up when it needs them.
    manager, wait = dispatcher.APIServerProcessManager, dispatcher.wait_for_completion_or_failure
    dispatcher.APIServerProcessManager = partial(manager, target_server_fn=partial(_run_api_server, told))
    dispatcher.wait_for_completion_or_failure = partial(
        _wait, wait, end, patience(args.mirl, args.shutdown_timeout)
    )
    try:
        dispatcher.ServeSubcommand.cmd(args)
    except SystemExit as stop:  # how vLLM hears of a signal
        if stop.code:
            raise
    except RuntimeError as error:
        found = [what for words, what in _DIED.items() if words in str(error)]
        if not found:
            raise
        return found[0]
    return DEAD_ENGINE if engine_died(args) else None


def engine_died(args: argparse.Namespace) -> bool:
    """Whether the engine died of the API server that ran in this process, if one did."""
    life: Lifetime | None = getattr(args, "mirl_life", None)
    return life is not None and life.died


def watch_engine(client: EngineClient, args: argparse.Namespace) -> None:
    """Have vLLM's client learn of its engine's death, where that is another process's child."""
    told: Connection | None = getattr(args, "mirl_engine_death", None)
    if told is not None:
        client.engine_core.resources.engine_manager = _EngineDeathWatcher(told)
        client.engine_core.start_engine_core_monitor()


class _EngineDeathWatcher:
    """To vLLM's client the manager of its engine, of which it knows the end alone."""

    def __init__(self, told: Connection) -> None:
        self._told = told

    def monitor_engine_liveness(self) -> None:
        self._told.poll(None)

    def shutdown(self, timeout: float | None = None) -> None:
        """The dispatcher ends it."""


def _run_api_server(
    told: Connection, address: str, listening: Any, args: argparse.Namespace, client: Any = None
) -> None:
    """vLLM's API server, in a process of its own."""
    from vllm.v1.utils import run_api_server_worker_proc

    from mirl_server.http.uvicorn_protocol import http_protocol

    args.mirl_engine_death = told
    run_api_server_worker_proc(address, listening, args, client, http=http_protocol(args.mirl.http))


def _wait(
    wait: Any,
    end: Connection,
    patience: float,
    api_server_manager: Any,
    engine_manager: Any = None,
    coordinator: Any = None,
) -> None:
    """The dispatcher's wait for its processes. At their end API servers have the time that a lone one takes:
    vLLM would give them what it gives its engines, and go on sampling for nobody."""
    try:
        wait(api_server_manager=api_server_manager, engine_manager=engine_manager, coordinator=coordinator)
    except SystemExit:  # asked to stop
        api_server_manager.shutdown(timeout=patience + AFTER_PATIENCE)
        if engine_manager is not None:
            engine_manager.shutdown(timeout=ENGINE_SECONDS)
        raise
    except RuntimeError:  # one of them died
        end.close()
        until = time.monotonic() + AFTER_PATIENCE
        for process in api_server_manager.processes:
            process.join(max(0, until - time.monotonic()))
        raise
