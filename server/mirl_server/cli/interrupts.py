"""Ctrl-C and SIGTERM before the server serves: they end this process and its children without a traceback.

By default a signal raises an exception in the main thread. It would show a traceback of the import or load
that it interrupts, and pyzmq swallows it while vLLM waits for its engine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from mirl_server.observability import quiet_start

INTERRUPTED = 130
"""Exit code of Ctrl-C before the server serves."""


@contextmanager
def quiet_stops() -> Iterator[None]:
    """End this process on SIGINT with INTERRUPTED and on SIGTERM with 0, until others handle the signals.

    Outside the main thread, which alone may set handlers, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _stop:
                signal.signal(number, handler)


def keep_from_children() -> None:
    """Keep SIGINT from processes that this one starts from now on, for as long as they live.

    A terminal sends Ctrl-C to every process of the command. An engine would show a traceback while it loads,
    and later end before the requests that the server still lets run. Children inherit the main thread's
    signal mask, which therefore blocks SIGINT. In this process another thread receives the signal instead. It
    passes the signal to the main thread's handler as soon as that is no longer the handler of `quiet_stops`.
    """
    # It starts with the first child otherwise, and its start ends with SIGINT unblocked.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_take_interrupts, name="interrupts", daemon=True).start()


def _take_interrupts() -> None:
    while True:
        signal.sigwait({signal.SIGINT})
        if signal.getsignal(signal.SIGINT) is _stop:
            _stop(signal.SIGINT, None)
        # An event loop learns of a signal by a file descriptor, whichever thread receives it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _stop(number: int, _: FrameType | None = None) -> None:
    """End the child processes, then this one, without a drain."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(3)
        child.kill()
    # Not before: an engine that still loads would show the warnings that a start holds back.
    quiet_start.end()
    os._exit(INTERRUPTED if number == signal.SIGINT else 0)
