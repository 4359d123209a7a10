"""Kills the children of a process that dies without clean-up: by SIGKILL, or when memory runs out.

vLLM's engine runs in a child process, which would go on holding cores, memory or a GPU. A tiny watcher
process records the children while their parent lives, and kills them when it dies. Linux only: elsewhere
nothing is watched. This file imports the standard library only, because the watcher runs it as a script.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

__all__ = ["children_killed_with_parent"]

_POLL_SECONDS = 0.5


@contextmanager
def children_killed_with_parent() -> Iterator[None]:
    """Within the block, have a watcher kill this process's children if this process dies."""
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        yield
        return
    watcher = subprocess.Popen(  # noqa: S603  this Python, this file
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C on a terminal must not end the watcher.
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.terminate()
        watcher.wait()


def _watch(parent: int) -> None:
    start_times: dict[int, str] = {}
    while os.getppid() == parent:
        start_times |= {child: time for child in _children(parent) if (time := _start_time(child))}
        sleep(_POLL_SECONDS)
    for child, start_time in start_times.items():
        # The start time shows that no other process has reused the process id.
        if child != os.getpid() and _start_time(child) == start_time:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """Return the process ids of the children of all threads of a process."""
    children = []
    with suppress(OSError):
        for thread in Path(f"/proc/{parent}/task").iterdir():
            with suppress(OSError):
                children += [int(word) for word in (thread / "children").read_text().split()]
    return children


def _start_time(process: int) -> str:
    """Return the start time of a process in the kernel's clock ticks; empty if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
