"""`make demo` does what it says, within its time, and leaves nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len


def servers() -> set[str]:
    """Ids of the processes that run a mirl-serve."""
    ids = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"mirl_server.cli.main" in command or command.startswith(b"VLLM::"):
            ids.add(entry.name)
    return ids


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_demo_asks_four_questions_in_three_ways_and_cleans_up() -> None:
    before = servers()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mirl_server.cli.demo"],
        # No terminal, and no variable that makes the output look like one's.
        env={
            name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert time.monotonic() - started < 120
    assert done.stdout.count("truth:") == 4
    counts = {
        "greedy ": 5,
        "16 votes ": 5,
        "MIRL, waves ": 2,
        "MIRL, steered ": 1,
        "MIRL, gate ": 1,
        ".png": 4,
    }
    for words, count in counts.items():
        assert done.stdout.count(words) == count, words
    for words in ("λ = 0 ", "λ = 0.5 ", "λ = 1 ", "sampled", "MI/token", "answer", "words that λ changed",
                  "where the model alone", " nats)", "kept", "dropped", "vote:", "confidence:", "calibrated",
                  "describe", "score", "fork", "►", "Four questions decide nothing"):  # fmt: skip
        assert words in done.stdout, words
    assert max(map(cell_len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert "▀" not in done.stdout
    assert servers() <= before
