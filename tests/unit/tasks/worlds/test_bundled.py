"""What ships: the frozen hashes, the models' sizes, and questions that can be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mirl_core import bundled
from mirl_core.bundled import CHARTS, DIGITS, MODELS, BundledModel
from mirl_core.evaluation.model_card import freeze
from mirl_core.tasks.worlds import digits
from mirl_core.tasks.worlds.charts import drawing

Pictures = npt.NDArray[np.uint8]

BOTH = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


@BOTH
@pytest.mark.parametrize("name", freeze.FROZEN_FILES)
def test_weights_and_tokenizer_are_frozen(model: BundledModel, name: str) -> None:
    assert freeze.file_hash(model.path / name) == json.loads(model.manifest.read_text())["files"][name]


@pytest.fixture
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw the first pictures alone: hashes leave drawn pixels out, and the means take no others."""

    def first(render: Callable[[list[Any]], Pictures]) -> Callable[[list[Any]], Pictures]:
        def rendered(scenes: list[Any]) -> Pictures:
            pictures = render(scenes[: freeze.MEANS])
            blank = np.zeros((len(scenes) - len(pictures), *pictures.shape[1:]), np.uint8)
            return np.concatenate([pictures, blank])

        return rendered

    for world in (digits, drawing):
        monkeypatch.setattr(world, "render", first(world.render))
    freeze._samples.cache_clear()
    yield
    freeze._samples.cache_clear()


@BOTH
@pytest.mark.usefixtures("_few_pictures")
def test_the_worlds_are_frozen(model: BundledModel) -> None:
    manifest = json.loads(model.manifest.read_text())
    assert freeze.sample_hashes(model) == manifest["samples"]
    means = freeze.sample_means(model)
    assert means.keys() == manifest["means"].keys()
    for name, values in means.items():
        assert values == pytest.approx(manifest["means"][name], abs=0.05)


@BOTH
def test_the_models_are_small_enough_for_the_repository(model: BundledModel) -> None:
    assert sum(f.stat().st_size for f in model.path.iterdir()) < 12e6
    assert 2e6 <= (model.path / "model.safetensors").stat().st_size / 2 <= 4e6


@pytest.mark.parametrize(
    ("model", "splits"),
    [
        (DIGITS, {"digits-iid", "digits-shifted", "digits-ambiguous", "easy-vqa"}),
        (CHARTS, {"charts-iid", "charts-half", "charts-quarter", "charts-shifted", "charts-ambiguous"}),
    ],
)
def test_the_demo_has_questions_of_every_split(model: BundledModel, splits: set[str]) -> None:
    questions = model.questions()
    assert len(questions) >= 6
    assert {question.split for question in questions} == splits
    for question in questions:
        with Image.open(question.file) as picture:
            assert picture.format == "PNG"
            assert picture.size == (64, 64)
        assert question.question
        assert question.answer


def test_a_name_is_resolved_to_its_folder_and_any_other_model_is_left_alone() -> None:
    assert bundled.resolve("mirl-tiny") == str(DIGITS.path)
    assert bundled.resolve("mirl-charts") == str(CHARTS.path)
    for other in ("Qwen/Qwen2.5-VL-3B-Instruct", "mirl", "./mirl-tiny", ""):
        assert bundled.resolve(other) == other


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (("charts/iid",), CHARTS),
        (("charts/iid", "charts/shifted"), CHARTS),
        (("digits/iid",), DIGITS),
        (("charts/iid", "easy-vqa"), DIGITS),
        (("hf:chartqa",), DIGITS),
        ((), DIGITS),
    ],
)
def test_data_sets_have_their_bundled_model(names: tuple[str, ...], model: BundledModel) -> None:
    assert bundled.for_data(names) is model


def test_paths_need_nothing_heavy() -> None:
    code = "import sys, mirl_core.bundled; print({'torch', 'numpy', 'PIL', 'vllm'}.isdisjoint(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_the_start_of_reinforcement_learning_is_a_model() -> None:
    assert (bundled.start_path() / "model.safetensors").is_file()
