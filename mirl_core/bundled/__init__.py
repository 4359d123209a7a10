"""The bundled model and questions: a small vision-language model and a few questions about pictures; imports
only the standard library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DemoQuestion", "manifest_path", "model_path", "questions", "start_path"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class DemoQuestion:
    """A picture from the worlds' test data with a question and the true answer."""

    file: Path
    """PNG file, 64 × 64 pixels."""
    question: str
    answer: str
    split: str
    """`digits-iid`, `digits-shifted`, `digits-ambiguous` or `easy-vqa`."""


def model_path() -> Path:
    """Return the folder of the bundled model, as Hugging Face and vLLM load it."""
    return _HERE / "model"


def start_path() -> Path:
    """Return the folder of the same model, less trained: docs/training.md starts RL from it."""
    return _HERE / "start"


def manifest_path() -> Path:
    """Return the file with hashes of the weights, the tokenizer and samples of the worlds."""
    return _HERE / "manifest.json"


def questions() -> tuple[DemoQuestion, ...]:
    """Return the bundled questions, in the order in which the demo asks them."""
    folder = _HERE / "questions"
    entries = json.loads((folder / "questions.json").read_text())
    return tuple(
        DemoQuestion(folder / entry["file"], entry["question"], entry["answer"], entry["split"])
        for entry in entries
    )
