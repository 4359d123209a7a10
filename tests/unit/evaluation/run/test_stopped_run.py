"""`mirl-eval run` stopped by a signal: nothing stays behind, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirl_core.evaluation.bank.store import Bank

RUN = """
import signal, subprocess, sys
from contextlib import asynccontextmanager
from pathlib import Path
import mirl_core.evaluation.run.command as command
from mirl_core.engines.fake import FakeEngine
from tests.unit.evaluation.run.run_cases import data_file, engine_factory, model_folder
# A shell's background jobs begin with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
where, delay = Path(sys.argv[1]), float(sys.argv[2])

@asynccontextmanager
async def opened():
    # As vLLM's process, it outlives a parent that dies on the spot.
    nowhere = subprocess.DEVNULL
    child = subprocess.Popen(["sleep", "60"], stdout=nowhere, stderr=nowhere)
    (where / "child").write_text(str(child.pid))
    try:
        async with engine_factory(FakeEngine(delay=delay))() as engine:
            yield engine
    finally:
        child.kill()
        child.wait()

command.vllm_engine = lambda model: opened
model, data = model_folder(where / "tiny"), data_file(where / "set" / "q.jsonl", 100)
words = ["--data", data, "--model", model, "--output", where / "out", "--n", 100, "--descriptions", 4]
sys.argv = ["mirl-eval", "run", "--methods", "direct", *map(str, words)]
from mirl_core.evaluation.cli import main
main()
"""


def started(where: Path, delay: float) -> subprocess.Popen[str]:
    """`mirl-eval run` on 100 questions, in a process of its own; `delay` seconds a token."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(where), str(delay)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_a_stopped_run_leaves_no_engine_and_goes_on_from_what_was_sampled(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    file = tmp_path / "out" / "bank" / "q.jsonl.jsonl"
    with started(tmp_path, 0.08) as running:
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size) and running.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(sent)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == code, errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "child").read_text()), 0)
    assert 0 < len(Bank.existing(file.parent).keys("q.jsonl")) < 100
    kept = file.read_bytes()
    with started(tmp_path, 0.0) as running:
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert file.read_bytes().startswith(kept)
    assert len(Bank.existing(file.parent).keys("q.jsonl")) == 100
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["data"]["q.jsonl"]["direct"]["n"] == 100
