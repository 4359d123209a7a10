"""Trainers to save, and the ways in which a checkpoint's folder is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from mirl_core.training.rl.model.trainer import Trainer
from mirl_core.training.rl.state import checkpoint
from tests.unit.training.rl.model.policy_cases import make_policy


def make_trainer(**changes: Any) -> Trainer:
    settings = {"warmup": 3, "schedule": "cosine", "weight_decay": 0.01, "accumulate": 2} | changes
    policy = make_policy(tiny=True, **settings)
    return Trainer(policy, policy.settings, 6)


def cut_state(folder: Path) -> None:
    path = folder / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])


def cut_both(folder: Path) -> None:
    """As long as it should be, but not what it should be."""
    path = folder / "state.pt"
    path.write_bytes(path.read_bytes()[:1000].ljust(path.stat().st_size, b"\0"))


def lose_state(folder: Path) -> None:
    (folder / "state.pt").unlink()


def lose_about(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


def cut_about(folder: Path) -> None:
    (folder / "checkpoint.json").write_text('{"by')


def empty_state(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"")


def flip_bit(folder: Path) -> None:
    """A weight's, in the middle of the file: its size and its structure are as they were."""
    path = folder / "state.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def be_another(folder: Path) -> None:
    """The state of another step, copied here with all that belongs to it."""
    other = checkpoint.save(folder.parent / "elsewhere", 3, make_trainer())
    for path in other.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def hold_nothing(folder: Path) -> None:
    torch.save({"step": 10}, folder / "state.pt")
    size = (folder / "state.pt").stat().st_size
    (folder / "checkpoint.json").write_text(json.dumps({"step": 10, "bytes": size}))


DAMAGE = [
    cut_state,
    cut_both,
    lose_state,
    lose_about,
    cut_about,
    empty_state,
    flip_bit,
    be_another,
    hold_nothing,
    shutil.rmtree,
]
