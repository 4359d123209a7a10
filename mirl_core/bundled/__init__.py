"""The bundled models and their questions: small vision-language models and a few questions about pictures;
imports only the standard library."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CHARTS", "DIGITS", "MODELS", "BundledModel", "DemoQuestion", "for_data", "resolve", "start_path"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class DemoQuestion:
    """A picture from a world's test data with a question and the true answer."""

    file: Path
    """PNG file, 64 × 64 pixels."""
    question: str
    answer: str
    split: str
    """`charts-iid`, `digits-shifted`, `easy-vqa`, …: the data set with `-` for `/`."""


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that ships with MIRL, and what belongs to it."""

    name: str
    """Name under which it is served, and which `--model` takes."""
    folder: Path

    @property
    def path(self) -> Path:
        """The folder with the weights, as Hugging Face and vLLM load it."""
        return self.folder / "model"

    @property
    def manifest(self) -> Path:
        """The file with hashes of the weights, the tokenizer and samples of the world."""
        return self.folder / "manifest.json"

    def questions(self) -> tuple[DemoQuestion, ...]:
        """Return the questions, in the order in which the demo asks them."""
        folder = self.folder / "questions"
        entries = json.loads((folder / "questions.json").read_text())
        return tuple(
            DemoQuestion(folder / entry["file"], entry["question"], entry["answer"], entry["split"])
            for entry in entries
        )


DIGITS = BundledModel("mirl-tiny", _HERE / "digits")
"""Reads coloured handwritten digits and easy-VQA's shapes."""
CHARTS = BundledModel("mirl-charts", _HERE / "charts")
"""Reads column charts of fruit sales."""
MODELS = {model.name: model for model in (DIGITS, CHARTS)}


def resolve(model: str) -> str:
    """Return the folder of the bundled model of this name; any other model as it is."""
    return str(MODELS[model].path) if model in MODELS else model


def for_data(names: Collection[str]) -> BundledModel:
    """Return the bundled model of the data sets with these names: charts for `charts/…`, else digits."""
    return CHARTS if names and all(name.startswith("charts/") for name in names) else DIGITS


def start_path() -> Path:
    """Return the folder of the digits model, less trained: docs/training.md starts RL from it."""
    return DIGITS.folder / "start"
