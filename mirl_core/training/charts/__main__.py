"""`python -m mirl_core.training.charts RECIPE`: one stage of the charts model, resumable."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from mirl_core.training.charts.recipe import load_charts_recipe
from mirl_core.training.charts.stage import ChartsTrainer
from mirl_core.training.sft.model import export


def main() -> None:
    """Run a stage from its recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--max-seconds", type=float, help="stop after this long and leave a checkpoint")
    parser.add_argument("--export", type=Path, help="when finished, write the Hugging Face folder here")
    parser.add_argument("--root", type=Path, help="put stages' folders here instead of the recipe's parent")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_charts_recipe(chosen.recipe)
    if chosen.root is not None:
        moved: dict[str, object] = {"output": chosen.root / recipe.output.name}
        if recipe.init is not None:
            moved["init"] = chosen.root / recipe.init.name
        recipe = recipe.model_copy(update=moved)
    trainer = ChartsTrainer(recipe)
    begin = time.monotonic()

    def report(step: int, figures: dict[str, float]) -> None:
        if step % 25 == 0:
            parts = " ".join(f"{k} {v:.3f}" for k, v in figures.items())
            print(
                f"{step}/{recipe.steps} {time.monotonic() - begin:.0f} s {parts}", file=sys.stderr, flush=True
            )

    finished = trainer.run(chosen.max_seconds, report)
    if finished and chosen.export is not None:
        export(trainer.averaged().model, trainer.tokenizer, chosen.export)
    print("finished" if finished else "stopped on time; run the same command again to go on")


if __name__ == "__main__":
    main()
