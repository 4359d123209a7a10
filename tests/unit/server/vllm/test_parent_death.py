"""A process that `mirl-serve` started ends with it, and nobody else's does."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from mirl_server.cli.command import PLUGINS
from mirl_server.vllm.parent_death import LAUNCHER

ROOT = Path(__file__).parents[4]
CHILD = (
    "import time; from mirl_server.vllm.parent_death import end_with_launcher; end_with_launcher(); "
    "print('ready', flush=True); time.sleep(60)"
)
PARENT = f"""
import os, subprocess, sys, time
os.environ["{LAUNCHER}"] = str(os.getpid() + int(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "{CHILD}"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death"
)
@pytest.mark.parametrize(("off", "ends"), [(0, True), (1, False)], ids=["launched", "not launched"])
def test_a_process_ends_with_the_launcher_that_started_it(off: int, ends: bool) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(off)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        parent.kill()
        parent.wait()
        gone, _ = psutil.wait_procs([child], timeout=5 if ends else 0.5)
        assert bool(gone) is ends
    finally:
        parent.stdout.close()
        if child.is_running():
            child.kill()


def test_vllm_finds_what_the_launcher_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"]
    plugins = groups["vllm.endpoint_plugins"] | groups["vllm.general_plugins"]
    assert set(plugins) == set(PLUGINS)
    for place in plugins.values():
        module, _, name = place.partition(":")
        if module != "mirl_server.vllm.plugin":  # needs vLLM
            assert callable(getattr(import_module(module), name))
