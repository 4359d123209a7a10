"""The environment of most architectures: torchvision and num2words, which MIRL's own CPU environment lacks.

`make` puts them into a folder beside the environment (requirements/vision.lock); processes of this module
alone have that folder on their path, with the hook that lets torchvision load
(`fixtures/torchvision_on_cpu`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HOOK = ROOT / "tests" / "fixtures" / "torchvision_on_cpu"
PACKAGES = Path(os.environ.get("MIRL_VISION_PACKAGES") or Path(sys.prefix) / "vision")
"""The folder of the packages; the variable names another."""
SECONDS = int(os.environ.get("MIRL_MATRIX_SECONDS", "280"))
"""Longest run of the matrix."""


def environment() -> dict[str, str]:
    """Return the environment of a process in which every architecture loads."""
    before = os.environ.get("PYTHONPATH")
    path = [str(HOOK), str(PACKAGES), str(ROOT), str(ROOT / "server"), *([before] if before else [])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }


def run_matrix(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Run the matrix on these architectures in a process of its own; return its report.

    Raises:
        RuntimeError: the process failed; the message has the end of its output.
    """
    report = folder / "report.json"
    command = [sys.executable, "-m", "tests.helpers.architectures.matrix", str(folder), str(report), *names]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS * max(1, len(names) // 5),
        check=False,
    )
    if done.returncode or not report.is_file():
        raise RuntimeError(done.stdout.decode(errors="replace")[-6000:])
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return result
