"""Checkpoints: a run goes on bit for bit, and nothing half-written is ever read."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mirl_core.errors import ConfigError
from mirl_core.training.rl.state import checkpoint
from tests.unit.training.rl.model.policy_cases import furthest, make_rows, weights_of
from tests.unit.training.rl.state.damage_cases import DAMAGE, cut_state, flip_bit, make_trainer


def numbers() -> tuple[float, float, float]:
    """One draw from each generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 2}}, {"kl": 0.1, "freeze": ("vision_model",)}])
def test_two_and_two_steps_are_four(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = make_trainer(**changes)
    for _ in range(2):
        first.step(make_rows())
    checkpoint.save(tmp_path, 2, first, {"epoch": 1, "position": 7}, {"version": 2, "note": "ä"})
    drawn = numbers()
    for _ in range(2):
        last = first.step(make_rows())

    other = make_trainer(**changes)
    loaded = checkpoint.load(tmp_path, other)
    assert loaded is not None
    assert (loaded.step, loaded.cursor) == (2, {"epoch": 1, "position": 7})
    assert loaded.extra == {"version": 2, "note": "ä"}
    assert loaded.folder == tmp_path / "step-00000002"
    assert numbers() == drawn
    for _ in range(2):
        again = other.step(make_rows())
    assert furthest(weights_of(first.policy), weights_of(other.policy)) == 0
    for mine, theirs in zip(first.optimizer.state.values(), other.optimizer.state.values(), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    del last["seconds/train"], again["seconds/train"]
    assert last == again
    assert last["learning_rate"] == first.learning_rate(3) != first.learning_rate(1)


def test_nothing_is_loaded_where_nothing_is(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none", make_trainer()) is None
    assert checkpoint.load(tmp_path, make_trainer()) is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: Any) -> None:
    trainer = make_trainer()
    checkpoint.save(tmp_path, 5, trainer, keep=3)
    start = weights_of(trainer.policy)
    trainer.step(make_rows())
    damage(checkpoint.save(tmp_path, 10, trainer, keep=3))
    said: list[str] = []
    checkpoint.check(tmp_path)
    loaded = checkpoint.load(tmp_path, other := make_trainer(), said.append)
    assert loaded is not None
    assert loaded.step == 5
    assert furthest(weights_of(other.policy), start) == 0
    (line,) = said
    assert f"{tmp_path / 'step-00000010'} is damaged (" in line
    assert "goes on from the older one of step 5, and makes later steps again" in line
    assert (tmp_path / "latest").resolve().name == "step-00000005"
    # It is named once, and kept for inspection.
    assert (tmp_path / "damaged-step-00000010").exists() == (damage is not shutil.rmtree)
    assert checkpoint.load(tmp_path, make_trainer(), said.append) is not None
    assert len(said) == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_only_checkpoint_is_never_passed_over(tmp_path: Path, damage: Any) -> None:
    damage(checkpoint.save(tmp_path, 10, make_trainer()))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for refused in (lambda: checkpoint.check(tmp_path), lambda: checkpoint.load(tmp_path, make_trainer())):
        with pytest.raises(
            ConfigError, match=r"step-00000010 is damaged .* put a copy in its place"
        ) as caught:
            refused()
        assert caught.value.param == "output"
        assert "\n" not in caught.value.message
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_run_of_damaged_checkpoints_goes_back_to_the_whole_checkpoint_or_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    saved = [checkpoint.save(tmp_path, step, trainer, keep=9) for step in (5, 10, 15)]
    flip_bit(saved[2])
    cut_state(saved[1])
    said: list[str] = []
    loaded = checkpoint.load(tmp_path, make_trainer(), said.append)
    assert loaded is not None
    assert (loaded.step, len(said)) == (5, 2)
    flip_bit(saved[0])
    with pytest.raises(ConfigError, match="step-00000005 is damaged"):
        checkpoint.load(tmp_path, make_trainer())


def test_a_checkpoint_that_must_be_there_is_missed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            ConfigError, match="holds no checkpoint, and one of step 40 was written: put a copy"
        ):
            checkpoint.load(folder, make_trainer(), lost="one of step 40 was written")


def test_another_version_s_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 5, make_trainer())
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    with pytest.raises(ConfigError, match="another version"):
        checkpoint.load(tmp_path, make_trainer())


def test_an_interrupted_write_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    checkpoint.save(tmp_path, 1, trainer)

    def interrupted(state: Any, file: Any) -> None:
        file.write(b"PK half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, trainer)
    assert (tmp_path / ".step-00000002.partial").exists()
    loaded = checkpoint.load(tmp_path, make_trainer())
    assert loaded is not None
    assert loaded.step == 1
    checkpoint.save(tmp_path, 2, trainer)
    assert not list(tmp_path.glob(".*"))
    assert [path.name for path in checkpoint.intact(tmp_path)] == ["step-00000001", "step-00000002"]


def test_a_full_disk_leaves_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    checkpoint.save(tmp_path, 1, trainer, keep=1)

    def full(state: Any, file: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, 2, trainer, keep=1)
    assert checkpoint.load(tmp_path, make_trainer()) is not None


def test_the_oldest_go_first(tmp_path: Path) -> None:
    trainer = make_trainer()
    for step in (9, 10, 100, 11):
        checkpoint.save(tmp_path, step, trainer, keep=2)
    names = ["step-00000011", "step-00000100"]
    assert [path.name for path in checkpoint.intact(tmp_path)] == names
    assert (tmp_path / "latest").resolve().name == "step-00000011"
    checkpoint.save(tmp_path, 100, trainer, {"again": True}, keep=2)
    assert [path.name for path in checkpoint.intact(tmp_path)] == names
    loaded = checkpoint.load(tmp_path, trainer)
    assert loaded is not None
    assert loaded.cursor == {"again": True}


def test_a_damaged_checkpoint_does_not_push_out_a_whole_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer()
    checkpoint.save(tmp_path, 1, trainer, keep=2)
    cut_state(checkpoint.save(tmp_path, 2, trainer, keep=2))
    checkpoint.save(tmp_path, 3, trainer, keep=2)
    assert [path.name for path in checkpoint.intact(tmp_path)] == ["step-00000001", "step-00000003"]


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, make_trainer(), cursor=object())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"lora": {}}, {"freeze": ("vision_model",)}])
def test_another_recipe_s_checkpoint_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint.save(tmp_path, 1, make_trainer())
    with pytest.raises(ConfigError, match="other parameters"):
        checkpoint.load(tmp_path, make_trainer(**changes))


def test_only_what_is_trained_is_kept(tmp_path: Path) -> None:
    small = checkpoint.save(tmp_path / "a", 1, make_trainer(lora={"rank": 1})) / "state.pt"
    large = checkpoint.save(tmp_path / "b", 1, make_trainer()) / "state.pt"
    assert small.stat().st_size < 0.6 * large.stat().st_size
