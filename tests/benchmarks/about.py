"""What a benchmark ran on and with, as its results must say; and the bar that shows how far it is."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mirl_core import __version__
from mirl_core.bundled import DIGITS
from mirl_server.cli.main import vllm_version

COLUMNS = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
    TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(),
)  # fmt: skip


def about() -> dict[str, Any]:
    """Machine, versions, the bundled model and its settings; the load before the run, which timings feel."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    settings = DIGITS.path / "mirl.json"
    return {
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "mirl": __version__,
        "vllm": vllm_version(),
        "torch": metadata.version("torch"),
        "weights": hashlib.sha256((DIGITS.path / "model.safetensors").read_bytes()).hexdigest(),
        "settings": json.loads(settings.read_text()) if settings.exists() else {},
    }


def line(found: dict[str, Any]) -> str:
    """The same in one line of prose."""
    return (
        f"{found['cpu']}, {found['processors']} processors, load {found['load']:.1f} at the start; "
        f"vLLM {found['vllm']}, torch {found['torch']}, mirl {found['mirl']}; the bundled model, weights "
        f"{found['weights'][:12]}, `mirl.json` options {json.dumps(found['settings'].get('options', {}))}."
    )
