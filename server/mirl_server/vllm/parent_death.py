"""The engine's process ends with the one that started it, even where that is killed and can't see to it.

vLLM calls `end_with_launcher` in every process that it starts (entry point `vllm.general_plugins`). Linux
only: elsewhere an engine whose server was killed stays. Light to import, and nothing outside `mirl-serve`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

LAUNCHER = "_MIRL_LAUNCHER"
"""In the environment of what `mirl-serve` starts: its own process id."""
PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Have the kernel kill this process when its parent dies, if that is `mirl-serve`.

    The kernel goes by the parent's thread, not its process: `mirl-serve` starts vLLM in its main thread.
    """
    launcher = os.environ.get(LAUNCHER)
    if not sys.platform.startswith("linux") or launcher != str(os.getppid()):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if launcher != str(os.getppid()):  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)
