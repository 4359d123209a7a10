"""`make demo` does what it says, within its time, and leaves nothing running."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest


def servers() -> set[str]:
    """Ids of the processes that run a mirl-serve."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"mirl_server.cli.main" in command or command.startswith(b"VLLM::"):
            found.add(entry.name)
    return found


@pytest.mark.vllm
@pytest.mark.full
def test_demo_asks_at_least_three_questions_and_cleans_up() -> None:
    before = servers()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mirl_server.cli.demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert time.monotonic() - started < 120
    assert done.stdout.count("truth:") >= 3
    for word in ("MI, nats", "per token", "kept", "vote:", "calibrated", "describe", "score", "fork"):
        assert word in done.stdout
    assert servers() <= before
