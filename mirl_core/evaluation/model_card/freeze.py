"""Freezing of the bundled models and their worlds: hashes of weights, tokenizer and samples; and questions.

python -m mirl_core.evaluation.model_card.freeze questions NAME    # write the questions of a bundled model
python -m mirl_core.evaluation.model_card.freeze manifest NAME     # write its manifest.json
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.bundled import CHARTS, DIGITS, MODELS, BundledModel

if TYPE_CHECKING:
    from mirl_core.tasks.worlds.cases import WorldCase

FROZEN_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
SAMPLE = 200
MEANS = 12
_DEMO_SEED = 2605
_CANDIDATES = 400
"""Scenes of a split among which the seed chooses a question."""
_DEMOS: Mapping[str, tuple[str, ...]] = {
    DIGITS.name: (
        "digits-iid",
        "digits-shifted",
        "easy-vqa",
        "digits-shifted",
        "digits-ambiguous",
        "digits-iid",
        "digits-shifted",
    ),
    CHARTS.name: (
        "charts-iid",
        "charts-shifted",
        "charts-half",
        "charts-ambiguous",
        "charts-iid",
        "charts-quarter",
        "charts-shifted",
    ),
}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample_hashes(model: BundledModel) -> dict[str, str]:
    """Return the SHA-256 of the first cases of every split and part of the model's worlds.

    Truth, glyphs, questions, answers and descriptions are hashed. Drawn pixels are left to `sample_means`:
    another CPU's last bit may round a pixel differently.
    """
    hashes = {}
    for name, cases in _samples(model.name):
        digest = hashlib.sha256()
        for case in cases:
            words = [
                case.question,
                case.answer,
                case.right_description,
                case.wrong_description,
                case.wrong_answer,
            ]
            objects = () if case.scene is None else case.scene.objects
            truth = [[t.cell, t.digit, t.colour, t.glyph, t.other_glyph] for t in objects]
            seed = None if case.scene is None else case.scene.noise_seed
            digest.update(json.dumps([words, truth, seed]).encode())
            if case.split == "easy-vqa":
                digest.update(case.image.tobytes())
        hashes[name] = digest.hexdigest()
    return hashes


def sample_means(model: BundledModel) -> dict[str, list[float]]:
    """Return the mean pixel value, 0 to 255, of the first pictures of every split and part."""
    import numpy as np

    return {
        name: [round(float(np.asarray(c.image, np.float64).mean()), 2) for c in cases[:MEANS]]
        for name, cases in _samples(model.name)
    }


def _draws(name: str) -> dict[str, Callable[..., list[WorldCase]]]:
    """Return the splits of a model's worlds with the function that draws (split, part, count)."""
    from mirl_core.tasks.worlds.cases import DIGITS_SPLITS, digits_cases, easy_cases
    from mirl_core.tasks.worlds.charts.cases import CHARTS_SPLITS, charts_cases

    if name == CHARTS.name:
        return dict.fromkeys(CHARTS_SPLITS, charts_cases)
    return {**dict.fromkeys(DIGITS_SPLITS, digits_cases), "easy-vqa": lambda _, *rest: easy_cases(*rest)}


@functools.lru_cache(maxsize=2)
def _samples(name: str) -> tuple[tuple[str, list[WorldCase]], ...]:
    from mirl_core.tasks.worlds.digits import PARTS

    return tuple(
        (f"{split}-{part}", draw(split, part, SAMPLE))
        for part in PARTS
        for split, draw in _draws(name).items()
    )


def manifest(model: BundledModel) -> dict[str, Any]:
    """Return the current manifest of files and samples."""
    return {
        "files": {
            name: file_hash(model.path / name) for name in FROZEN_FILES if (model.path / name).exists()
        },
        "samples": sample_hashes(model),
        "means": sample_means(model),
    }


def write_questions(model: BundledModel) -> None:
    """Choose the demo's questions from test data by seed, never by the model's answers, and write them.

    Digits scenes have at least three digits and an answer other than 0, so that the picture matters.
    """
    import numpy as np

    draws = _draws(model.name)
    rng = np.random.default_rng(_DEMO_SEED)
    folder = model.folder / "questions"
    folder.mkdir(exist_ok=True)
    entries = []
    for number, split in enumerate(_DEMOS[model.name], 1):
        count = () if split == "easy-vqa" else (_CANDIDATES,)
        cases = [
            c
            for c in draws[split](split, "test", *count)
            if c.scene is None or (len(c.scene.objects) >= 3 and c.answer != "0")
        ]
        case = cases[int(rng.integers(len(cases)))]
        name = f"{number}-{split}.png"
        case.image.save(folder / name, optimize=True)
        entries.append({"file": name, "question": case.question, "answer": case.answer, "split": split})
    (folder / "questions.json").write_text(json.dumps(entries, indent=2) + "\n")


def main() -> None:
    """Run the command."""
    match sys.argv[1:]:
        case ["questions", name] if name in MODELS:
            write_questions(MODELS[name])
        case ["manifest", name] if name in MODELS:
            model = MODELS[name]
            model.manifest.write_text(json.dumps(manifest(model), indent=2) + "\n")
        case _:
            sys.exit(
                "usage: python -m mirl_core.evaluation.model_card.freeze questions|manifest "
                f"{'|'.join(MODELS)}"
            )


if __name__ == "__main__":
    main()
