"""A stage whose files were damaged: refused with a remedy, or written anew; never begun again in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mirl_core.bundled import CHARTS
from mirl_core.errors import ConfigError, TrainingError
from mirl_core.training.charts.sampler import load_weights
from mirl_core.training.charts.trainer import ChartsTrainer
from mirl_core.training.sft.console import run_stage
from mirl_core.training.step_lines import read_lines
from tests.unit.training.charts.charts_cases import small_recipe

Damage = Callable[[Path], object]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget(path: Path) -> None:
    """A file of torch that lacks what a stage needs."""
    torch.save({"step": 1}, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that logs after each of its four steps, and has made two: `half`, and made all: `stage`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made") / "stage"
    folder.mkdir()
    shutil.copyfile(CHARTS.path / "tokenizer.json", folder / "tokenizer.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChartsTrainer, "measure", lambda self: {})
        stage = ChartsTrainer(recipe(folder))
        for _ in range(2):
            stage.run(max_seconds=0.0)
        shutil.copytree(folder, folder.parent / "half")
        stage.run()
    return folder.parent


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stage that has made two of its four steps."""
    return put(made / "half", tmp_path, monkeypatch)


@pytest.fixture
def finished(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished stage."""
    return put(made / "stage", tmp_path, monkeypatch)


def put(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder where the stage was made: a checkpoint knows its recipe's output."""
    monkeypatch.setattr(ChartsTrainer, "measure", lambda self: {})
    monkeypatch.setattr(ChartsTrainer, "_wrote", lambda self, recipe: True)
    return Path(shutil.copytree(made, tmp_path / "stage"))


def recipe(folder: Path, **changes: Any) -> Any:
    return small_recipe(folder, steps=4, dev_every=1, **changes)


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_lines(folder / "log.jsonl")]


@pytest.mark.parametrize("damage", [cut, empty, flip, forget, Path.unlink])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_overwritten(folder: Path, damage: Damage) -> None:
    damage(folder / "checkpoint.pt")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is (damaged|missing).* put a copy") as caught:
        ChartsTrainer(recipe(folder))
    assert caught.value.param == "output"
    assert "\n" not in caught.value.message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert steps(folder) == [1, 2]


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_another_tokenizer_is_refused(folder: Path, damage: Damage) -> None:
    damage(folder / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"tokenizer\.json (is damaged|has changed)"):
        ChartsTrainer(recipe(folder))


def test_lines_after_the_checkpoint_are_cut_and_named(folder: Path) -> None:
    """A process that was killed between its log and its checkpoint."""
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    stage = ChartsTrainer(recipe(folder))
    assert stage.notes == [f"step 3 is made again, and its line is dropped from {folder / 'log.jsonl'}"]
    assert steps(folder) == [1, 2]
    assert stage.run()
    assert steps(folder) == [1, 2, 3, 4]


def test_a_stage_that_was_killed_before_its_first_checkpoint_begins_again(folder: Path) -> None:
    for name in ("checkpoint.pt", "saved.json"):
        (folder / name).unlink()
    stage = ChartsTrainer(recipe(folder))
    assert (stage.step, len(stage.notes), steps(folder)) == (0, 1, [])


@pytest.mark.parametrize("damage", [empty, flip, forget])
def test_damaged_final_weights_are_written_again(finished: Path, damage: Damage) -> None:
    folder = finished
    weights = folder / "weights.pt"
    good = torch.load(weights, weights_only=True)
    following = recipe(folder.parent / "next", init=[folder])
    damage(weights)
    problem = "holds no weights of this model" if damage is forget else r"is damaged \(.*"
    with pytest.raises(ConfigError, match=rf"init: .*weights\.pt {problem}: run that folder's stage again"):
        ChartsTrainer(following)
    if damage is not forget:
        with pytest.raises(ConfigError, match=r"folder: .*weights\.pt is damaged"):
            load_weights(folder)
    again = ChartsTrainer(recipe(folder))
    assert again.run()
    assert again.notes[0].startswith(f"{weights} was damaged (")
    repaired = torch.load(weights, weights_only=True)
    assert all(torch.equal(good[name], repaired[name]) for name in good)
    assert ChartsTrainer(following).step == 0


def test_a_loss_that_is_no_number_ends_the_stage_before_it_ruins_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = torch.tensor(float("nan"))
    monkeypatch.setattr(ChartsTrainer, "losses", lambda self: (nothing, {"loss": float("nan")}))
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError, match="step 3: the loss is nan"):
        ChartsTrainer(recipe(folder)).run()
    with pytest.raises(Exception, match="1"):
        run_stage(recipe(folder), None, None)
    torch.use_deterministic_algorithms(False)
    assert "mirl-train: step 3: the loss is nan" in capsys.readouterr().err
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_the_note_names_the_checkpoint_s_step(folder: Path) -> None:
    assert json.loads((folder / "saved.json").read_text()) == {"step": 2}
