"""The freezing of the bundled model and its worlds: hashes of weights, tokenizer and samples; demo questions.

python -m mirl_core.evaluation.model_card.freeze questions    # write mirl_core/bundled/questions
python -m mirl_core.evaluation.model_card.freeze manifest     # write mirl_core/bundled/manifest.json
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.bundled import manifest_path, model_path

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
_DEMO = (
    "digits-iid",
    "digits-shifted",
    "easy-vqa",
    "digits-shifted",
    "digits-ambiguous",
    "digits-iid",
    "digits-shifted",
)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample_hashes() -> dict[str, str]:
    """Return the SHA-256 of the first cases of every split and part.

    Truth, glyphs, questions, answers and descriptions are hashed. Drawn pixels are left to `sample_means`:
    another CPU's last bit may round a pixel differently.
    """
    hashes = {}
    for name, cases in _samples():
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
            if case.scene is None:
                digest.update(case.image.tobytes())
        hashes[name] = digest.hexdigest()
    return hashes


def sample_means() -> dict[str, list[float]]:
    """Return the mean pixel value, 0 to 255, of the first pictures of every split and part."""
    import numpy as np

    return {
        name: [round(float(np.asarray(c.image, np.float64).mean()), 2) for c in cases[:MEANS]]
        for name, cases in _samples()
    }


@functools.lru_cache(maxsize=1)
def _samples() -> tuple[tuple[str, list[WorldCase]], ...]:
    from mirl_core.tasks.worlds.cases import DIGITS_SPLITS, digits_cases, easy_cases
    from mirl_core.tasks.worlds.digits import PARTS

    return tuple(
        (
            f"{split}-{part}",
            easy_cases(part, SAMPLE) if split == "easy-vqa" else digits_cases(split, part, SAMPLE),
        )
        for part in PARTS
        for split in (*DIGITS_SPLITS, "easy-vqa")
    )


def manifest() -> dict[str, Any]:
    """Return the current manifest of files and samples."""
    folder = model_path()
    return {
        "files": {name: file_hash(folder / name) for name in FROZEN_FILES if (folder / name).exists()},
        "samples": sample_hashes(),
        "means": sample_means(),
    }


def write_questions() -> None:
    """Choose the demo's questions from test data by seed, never by the model's answers, and write them.

    Digits scenes have at least three digits and an answer other than 0, so that the picture matters.
    """
    import numpy as np

    from mirl_core.tasks.worlds.cases import digits_cases, easy_cases

    rng = np.random.default_rng(_DEMO_SEED)
    folder = model_path().parent / "questions"
    folder.mkdir(exist_ok=True)
    entries = []
    for number, split in enumerate(_DEMO, 1):
        cases = easy_cases("test") if split == "easy-vqa" else digits_cases(split, "test", 400)
        cases = [c for c in cases if c.scene is None or (len(c.scene.objects) >= 3 and c.answer != "0")]
        case = cases[int(rng.integers(len(cases)))]
        name = f"{number}-{split}.png"
        case.image.save(folder / name, optimize=True)
        entries.append({"file": name, "question": case.question, "answer": case.answer, "split": split})
    (folder / "questions.json").write_text(json.dumps(entries, indent=2) + "\n")


def main() -> None:
    """Run the command."""
    if sys.argv[1:] == ["questions"]:
        write_questions()
    elif sys.argv[1:] == ["manifest"]:
        manifest_path().write_text(json.dumps(manifest(), indent=2) + "\n")
    else:
        sys.exit("usage: python -m mirl_core.evaluation.model_card.freeze questions|manifest")


if __name__ == "__main__":
    main()
