"""Parent death: the engine's process ends when its parent ends, even by SIGKILL.

vLLM calls `end_with_launcher` in every process that it starts (entry point `vllm.general_plugins`). Linux
only: elsewhere an engine whose server was killed stays. The same call keeps the process's log quiet while
`mirl-serve` starts. Imports no vllm, and does nothing without `mirl-serve`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from mirl_server.observability import quiet_start

LAUNCHER = "_MIRL_LAUNCHER"
"""The environment variable that carries the process id of `mirl-serve` to its children."""
PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Make the kernel kill this process when its parent dies, if the parent is `mirl-serve`.

    The signal follows the parent's thread, not its process: `mirl-serve` starts vLLM in its main thread.
    """
    quiet_start.watch_logs()
    launcher = os.environ.get(LAUNCHER)
    if not sys.platform.startswith("linux") or launcher != str(os.getppid()):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if launcher != str(os.getppid()):  # the parent died before the call
        os.kill(os.getpid(), signal.SIGKILL)
