"""Ends what a process has started when it dies without a word: SIGKILL, or for want of memory.

vLLM's engine is a process of its own, which would go on holding cores, memory or a GPU. Another, tiny process
watches: it remembers the first one's children while that lives, and kills them once it doesn't. Linux only;
elsewhere nothing is watched. Stands alone: it is run as a script.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["children_killed_with_parent"]

_SECONDS = 0.5


@contextmanager
def children_killed_with_parent() -> Iterator[None]:
    """Within the block, children of this process do not outlive it."""
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        yield
        return
    nowhere = subprocess.DEVNULL
    guard = subprocess.Popen(  # noqa: S603  this Python, this file
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=nowhere,
        stdout=nowhere,
        stderr=nowhere,
        # Ctrl-C on a terminal is not for it.
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.terminate()
        guard.wait()


def _watch(parent: int) -> None:
    known: dict[int, str] = {}
    while os.getppid() == parent:
        known |= {child: started for child in _children(parent) if (started := _started(child))}
        time.sleep(_SECONDS)
    for child, started in known.items():
        # The same process still, not another by its number.
        if child != os.getpid() and _started(child) == started:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """Of all threads of a process."""
    found = []
    with suppress(OSError):
        for thread in Path(f"/proc/{parent}/task").iterdir():
            with suppress(OSError):
                found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def _started(process: int) -> str:
    """When a process was started, as the kernel counts; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
