"""The committed figures of the bundled model, and how they are made again.

    python -m tests.benchmarks.bundled_model.baseline        # rewrites baseline.json, about two minutes

They guard against drift and are no evidence: few questions of `dev`, with a tolerance for sampling.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from mirl_core.bundled import DIGITS
from mirl_core.evaluation.run.command import run, vllm_engine
from mirl_core.evaluation.run.setup import RunSettings

BASELINE = Path(__file__).parent / "baseline.json"
METHODS = ("direct", "greedy", "sc@16", "mirl", "mirl(mi_weight=auto)", "confidence", "random", "oracle")
Figures = dict[str, dict[str, dict[str, float]]]


async def measure(folder: Path) -> Figures:
    """Data set → method → figures, sampled anew on real vLLM into `folder`."""
    settings = RunSettings(
        model=DIGITS.path,
        data=("digits/iid", "digits/shifted"),
        methods=",".join(METHODS),
        output=folder,
        n=100,
        part="dev",
        replays=4,
        estimators=("text",),
        descriptions=16,
        forks=2,
    )
    await run(settings, vllm_engine(settings.model))
    summary = json.loads((folder / "summary.json").read_text())
    figures: Figures = {}
    for data, methods in summary["data"].items():
        figures[data] = {
            name: {
                "accuracy": round(row["accuracy"], 4),
                "tokens": round(row["generated_tokens"] + row["scored_tokens"], 1),
            }
            for name, row in methods.items()
        }
        after = summary["faithfulness"][data]
        figures[data]["chains"] = {
            "after_right": round(after["after_right"]["share"], 4),
            "after_wrong": round(after["after_wrong"]["share"], 4),
        }
    return figures


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder)))
    BASELINE.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
