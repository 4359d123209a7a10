"""What ships with MIRL: a small vision-language model and a few questions about pictures. Imports nothing
heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DemoQuestion", "manifest_path", "model_path", "questions", "start_path"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class DemoQuestion:
    """A picture of the worlds' test data with a question and the true answer."""

    file: Path
    """PNG file, 64 x 64."""
    question: str
    answer: str
    split: str
    """`digits-iid`, `digits-shifted`, `digits-ambiguous` or `easy-vqa`."""


def model_path() -> Path:
    """Folder of the bundled model, as Hugging Face and vLLM load it."""
    return _HERE / "model"


def start_path() -> Path:
    """Folder of the same model less trained: where reinforcement learning starts in docs/training.md."""
    return _HERE / "start"


def manifest_path() -> Path:
    """Hashes of weights, tokenizer and samples of the worlds."""
    return _HERE / "manifest.json"


def questions() -> tuple[DemoQuestion, ...]:
    """The bundled questions, in the order in which the demo asks them."""
    folder = _HERE / "questions"
    entries = json.loads((folder / "questions.json").read_text())
    return tuple(DemoQuestion(folder / e["file"], e["question"], e["answer"], e["split"]) for e in entries)
