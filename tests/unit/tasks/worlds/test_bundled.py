"""What ships: the frozen hashes, the model's size, and questions that can be asked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from mirl_core import bundled
from mirl_core.evaluation.model_card import freeze

MANIFEST = json.loads(bundled.DIGITS.manifest.read_text())


@pytest.mark.parametrize("name", freeze.FROZEN_FILES)
def test_weights_and_tokenizer_are_frozen(name: str) -> None:
    assert freeze.file_hash(bundled.DIGITS.path / name) == MANIFEST["files"][name]


def test_the_worlds_are_frozen() -> None:
    assert freeze.sample_hashes() == MANIFEST["samples"]
    means = freeze.sample_means()
    assert means.keys() == MANIFEST["means"].keys()
    for name, values in means.items():
        assert values == pytest.approx(MANIFEST["means"][name], abs=0.05)


def test_the_model_is_small_enough_for_the_repository() -> None:
    assert sum(f.stat().st_size for f in bundled.DIGITS.path.iterdir()) < 12e6
    assert 2e6 <= (bundled.DIGITS.path / "model.safetensors").stat().st_size / 2 <= 4e6


def test_the_demo_has_questions_of_every_world() -> None:
    asked = bundled.DIGITS.questions()
    assert len(asked) >= 6
    assert {"digits-iid", "digits-shifted", "easy-vqa"} <= {q.split for q in asked}
    for question in asked:
        with Image.open(question.file) as picture:
            assert picture.format == "PNG"
            assert picture.size == (64, 64)
        assert question.question
        assert question.answer


def test_paths_need_nothing_heavy() -> None:
    code = "import sys, mirl_core.bundled; print({'torch', 'numpy', 'PIL', 'vllm'}.isdisjoint(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
