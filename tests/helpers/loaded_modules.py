"""Which heavy packages an import loads."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "vllm", "transformers", "fastapi")
LAZY = ("math_verify", "sympy")


def loaded_after(code: str) -> set[str]:
    """Return which of the watched packages a fresh interpreter has loaded after `code`."""
    watched = (*HEAVY, *LAZY)
    probe = f"{code}\nimport sys\nprint(*(name for name in {watched!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
