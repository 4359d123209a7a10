"""Children do not outlive a process that is killed, and nothing happens to those of one that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, subprocess, sys, time
from pathlib import Path
from mirl_core.engines.common.child_processes import children_killed_with_parent
where, me = Path(sys.argv[1]), os.getpid()
with children_killed_with_parent():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    # The guard has to start on a busy machine, and to look around.
    time.sleep(3)
    (where / "pids").write_text(f"{child.pid} {Path(f'/proc/{me}/task/{me}/children').read_text()}")
    while not (where / "end").exists():
        time.sleep(0.05)
print(child.poll(), flush=True)
child.kill()
child.wait()
"""


def start(folder: Path) -> tuple[subprocess.Popen[str], int, list[int]]:
    """A parent with a child: the process, the child and all its children (the guard among them)."""
    running = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "pids").exists() or not (folder / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child, *children = map(int, (folder / "pids").read_text().split())
    return running, child, children


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 10
    while not gone(process):
        assert time.monotonic() < deadline, f"{process} is left"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="watches through /proc")
def test_a_killed_process_takes_its_children_along(tmp_path: Path) -> None:
    running, child, children = start(tmp_path)
    assert len(children) == 2
    with running:
        os.kill(running.pid, signal.SIGKILL)
    for process in children:
        wait_until_gone(process)
    assert child in children


@pytest.mark.skipif(sys.platform != "linux", reason="watches through /proc")
def test_a_block_that_ends_leaves_no_guard_and_harms_nothing(tmp_path: Path) -> None:
    running, child, children = start(tmp_path)
    (guard,) = (process for process in children if process != child)
    with running:
        (tmp_path / "end").touch()
        output, _ = running.communicate(timeout=30)
    assert output.strip() == "None"
    wait_until_gone(guard)
