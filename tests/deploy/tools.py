"""Programs of other projects that tests of deploy/ run; `make deploy-tools` installs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(os.environ.get("MIRL_TOOLS", ROOT / ".venv" / "tools" / "bin"))
"""Programs of requirements/tools.lock, which `make test-full` installs."""


def tool(name: str) -> str:
    """Return the path of an installed program; skip the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: make deploy-tools")
    return path


def output_of(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program and return its output.

    Raises:
        AssertionError: the program fails; the message has its output.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
