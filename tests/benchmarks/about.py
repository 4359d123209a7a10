"""The facts of a benchmark's machine, versions and model; the columns of its progress bar."""

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
from mirl_server.cli.flags.vllm import vllm_version

COLUMNS = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
    TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(),
)  # fmt: skip


def about(model: Path = DIGITS.path, name: str = "the bundled model") -> dict[str, Any]:
    """Return the machine's facts and its load before the run, versions, and the model with its settings.

    Args:
        model: the model's folder.
        name: what the model is called in prose.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    settings = model / "mirl.json"
    weights = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")):
        weights.update(file.read_bytes())
    return {
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "mirl": __version__,
        "vllm": vllm_version() or "not installed",
        "torch": metadata.version("torch"),
        "model": name,
        "weights": weights.hexdigest(),
        "settings": json.loads(settings.read_text()) if settings.exists() else {},
    }


def line(facts: dict[str, Any]) -> str:
    """Return the facts of `about` as a line of prose."""
    return (
        f"{facts['cpu']}, {facts['processors']} processors, load {facts['load']:.1f} at the start; "
        f"vLLM {facts['vllm']}, torch {facts['torch']}, mirl {facts['mirl']}; {facts['model']}, weights "
        f"{facts['weights'][:12]}, `mirl.json` options {json.dumps(facts['settings'].get('options', {}))}."
    )
