"""Files of weights: what was damaged is never read as if it were whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirl_core.errors import ConfigError
from mirl_core.training.state_files import (
    check_writable,
    mark_saved,
    read_state,
    read_whole,
    saved_step,
    write_state,
)

STATE: dict[str, Any] = {
    "step": 3,
    "weights": {"a": torch.arange(300.0), "b": torch.ones(3, 4, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"exp": torch.tensor([0.5, -1.0])}}, "groups": [{"betas": (0.9, 0.95)}]},
    "recipe": '{"seed": 0}',
}
CENTRAL = b"PK\x01\x02"
"""Begins each entry of the directory at the archive's end."""


@functools.cache
def whole() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder) / "state.pt", STATE)
        return (Path(folder) / "state.pt").read_bytes()


def same(ours: Any, theirs: Any) -> bool:
    """Equality of nested values, tensors bit for bit."""
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("mmap", [False, True])
def test_a_whole_file_is_read(tmp_path: Path, mmap: bool) -> None:
    (tmp_path / "state.pt").write_bytes(whole())
    state, damage = read_state(tmp_path / "state.pt", ("step", "weights"), mmap=mmap)
    assert damage == ""
    assert same(state, STATE)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, len(whole()) - 1), bit=st.integers(0, 7), mmap=st.booleans())
# The mark of a folder: torch would give the tensor's memory as it happens to be.
@example(place=whole().rfind(CENTRAL) + 38, bit=4, mmap=False)
@example(place=whole().find(CENTRAL) + 38, bit=4, mmap=True)
# A tensor's offset, size and checksum.
@example(place=whole().find(CENTRAL) + 42, bit=0, mmap=False)
@example(place=whole().find(CENTRAL) + 16, bit=0, mmap=False)
@example(place=len(whole()) - 6, bit=7, mmap=False)
def test_a_flipped_bit_is_detected_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int, mmap: bool
) -> None:
    data = bytearray(whole())
    data[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    path.write_bytes(data)
    state, damage = read_state(path, tuple(STATE), mmap=mmap)
    assert damage or same(state, STATE)
    assert "\n" not in damage


def test_most_flipped_bits_are_detected(tmp_path: Path) -> None:
    """All of a tensor's and of the structure's."""
    begin = whole().find(torch.arange(300.0).numpy().tobytes())
    pickled = whole().find(b"weights")
    for place in (begin, begin + 599, begin + 1199, pickled, whole().find(b"exp")):
        data = bytearray(whole())
        data[place] ^= 1
        (tmp_path / "state.pt").write_bytes(data)
        assert read_state(tmp_path / "state.pt")[1].endswith("in it was changed")


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, len(whole()) - 1))
@example(length=0)
@example(length=len(whole()) - 1)
def test_a_file_that_is_cut_off_is_detected(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pt"
    path.write_bytes(whole()[:length])
    assert read_state(path)[1].startswith("it can't be read: ")


@pytest.mark.parametrize(
    ("write", "damage"),
    [
        (lambda path: None, "it is missing"),
        (lambda path: path.write_bytes(b"{}"), "it can't be read: "),
        (lambda path: path.write_bytes(bytes(5000)), "it can't be read: "),
        (lambda path: torch.save([1], path), "it holds no dict"),
        (lambda path: torch.save({"step": 1}, path), "it has no weights"),
        (lambda path: torch.save({"weights": Path()}, path), "it can't be read: "),
    ],
)
def test_what_is_no_state_is_named(tmp_path: Path, write: Callable[[Path], Any], damage: str) -> None:
    path = tmp_path / "state.pt"
    write(path)
    assert read_state(path, ("weights",))[1].startswith(damage)
    with pytest.raises(ConfigError, match=r"^output: .*state\.pt is damaged \(it .*\): do this$") as caught:
        read_whole(path, ("weights",), "output", "do this")
    assert caught.value.param == "output"


def test_what_can_t_be_opened_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "state.pt").mkdir()
    with pytest.raises(OSError, match="directory"):
        read_state(tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=r"output: .*state\.pt can't be read"):
        read_whole(tmp_path / "state.pt", (), "output", "")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    write_state(path, {"step": 1})

    def full(state: Any, file: Any) -> None:
        file.write(b"PK half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        write_state(path, {"step": 2})
    assert read_state(path) == ({"step": 1}, "")


def test_the_note_of_a_checkpoint_outlives_its_damage(tmp_path: Path) -> None:
    assert saved_step(tmp_path) is None
    mark_saved(tmp_path, 40)
    assert saved_step(tmp_path) == 40
    for content in ("", "{", "[]", '{"step": null}'):
        (tmp_path / "saved.json").write_text(content)
        assert saved_step(tmp_path) == 0


def test_a_folder_that_can_t_be_written_is_named(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder", "export")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"^export: ") as caught:
            check_writable(folder, "export")
        assert caught.value.param == "export"
