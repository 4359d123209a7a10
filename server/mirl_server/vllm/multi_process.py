"""Several API servers before one engine: vLLM's dispatcher, with the features of a single server.

The dispatcher starts and watches API servers and engines. With several processes vLLM drops two features that
this module restores: MIRL's HTTP protocol with the operator's limits, and the notice of the engine's death in
an API server, since the engine is the dispatcher's child.
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
"""Most seconds that an API server needs to exit after its patience has run out or its engine has died."""
ENGINE_SECONDS = 3.0
"""Seconds for an idle engine to exit by itself."""
_DIED = {"died unexpectedly": DEAD_ENGINE, "died with exit code": DEAD_SERVER}
"""Phrases in vLLM's RuntimeErrors, which have no classes of their own, with their meaning."""


def run_multi_process(args: argparse.Namespace) -> str | None:
    """Run vLLM's dispatcher to its end; return which process died, or None."""
    from vllm.entrypoints.cli import serve as dispatcher

    # Closing the write end reports a death to all readers, even when one was killed; an Event would wait for
    # each reader.
    engine_death, write_end = multiprocessing.Pipe(duplex=False)
    # vLLM has parameters for neither; the dispatcher looks both up by name when it needs them.
    manager, wait = dispatcher.APIServerProcessManager, dispatcher.wait_for_completion_or_failure
    dispatcher.APIServerProcessManager = partial(
        manager, target_server_fn=partial(_run_api_server, engine_death)
    )
    dispatcher.wait_for_completion_or_failure = partial(
        _wait, wait, write_end, patience(args.mirl, args.shutdown_timeout)
    )
    try:
        dispatcher.ServeSubcommand.cmd(args)
    except SystemExit as stop:  # vLLM's signal handlers raise it
        if stop.code:
            raise
    except RuntimeError as error:
        deaths = [meaning for phrase, meaning in _DIED.items() if phrase in str(error)]
        if not deaths:
            raise
        return deaths[0]
    return DEAD_ENGINE if engine_died(args) else None


def engine_died(args: argparse.Namespace) -> bool:
    """Return whether an API server ran in this process and its engine died."""
    life: Lifetime | None = getattr(args, "mirl_life", None)
    return life is not None and life.died


def port_taken(args: argparse.Namespace) -> bool:
    """Return whether the API server of this process lost its port to another process before it listened."""
    life: Lifetime | None = getattr(args, "mirl_life", None)
    return life is not None and life.port_taken


def watch_engine(client: EngineClient, args: argparse.Namespace) -> None:
    """Notify vLLM's client of its engine's death, where the engine is another process's child."""
    engine_death: Connection | None = getattr(args, "mirl_engine_death", None)
    if engine_death is not None:
        client.engine_core.resources.engine_manager = _EngineDeathWatcher(engine_death)
        client.engine_core.start_engine_core_monitor()


class _EngineDeathWatcher:
    """An engine manager for vLLM's client that only reports the engine's death."""

    def __init__(self, engine_death: Connection) -> None:
        self._engine_death = engine_death

    def monitor_engine_liveness(self) -> None:
        self._engine_death.poll(None)

    def shutdown(self, timeout: float | None = None) -> None:
        """Do nothing: the dispatcher ends the engine."""


def _run_api_server(
    engine_death: Connection, address: str, listening: Any, args: argparse.Namespace, client: Any = None
) -> None:
    """Run one of vLLM's API servers, in its process."""
    from vllm.v1.utils import run_api_server_worker_proc

    from mirl_server.http.uvicorn_protocol import http_protocol

    args.mirl_engine_death = engine_death
    run_api_server_worker_proc(address, listening, args, client, http=http_protocol(args.mirl.http))


def _wait(
    wait: Any,
    write_end: Connection,
    patience: float,
    api_server_manager: Any,
    engine_manager: Any = None,
    coordinator: Any = None,
) -> None:
    """Wait for the dispatcher's processes, and end them in order.

    API servers get the time that a single server has (`patience`, in seconds). vLLM would give them the time
    that it gives its engines, and the engines would go on sampling without a reader.
    """
    try:
        wait(api_server_manager=api_server_manager, engine_manager=engine_manager, coordinator=coordinator)
    except SystemExit:  # a signal
        api_server_manager.shutdown(timeout=patience + AFTER_PATIENCE)
        if engine_manager is not None:
            engine_manager.shutdown(timeout=ENGINE_SECONDS)
        raise
    except RuntimeError:  # a process died
        write_end.close()
        until = time.monotonic() + AFTER_PATIENCE
        for process in api_server_manager.processes:
            process.join(max(0, until - time.monotonic()))
        raise
