"""Where figures go: every step once, whatever a kill left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.config import LogConfig
from mirl_core.training.rl.report.monitor import Lines, Monitor, cut_back, read_lines


def test_lines_are_flushed_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    third = 1 / 3
    lines.log(1, {"a": third, "b": float("nan"), "c": np.float32(0.5), "d": {"e": [1, True, None, "x"]}})
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == {"step": 1, "a": third, "b": None, "c": 0.5, "d": {"e": [1, True, None, "x"]}}
    lines.close()


def test_what_a_kill_left_half_written_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    cut_back(path, 5)
    assert path.read_text() == '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n'
    assert read_lines(tmp_path / "nothing.jsonl") == []


def test_later_steps_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "x": 0.1}}\n' for step in (1, 2, 3, 4)))
    cut_back(path, 2)
    assert [line["step"] for line in read_lines(path)] == [1, 2]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"a": 1}', '{"step": "one"}'])
def test_foreign_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ConfigError, match="line 2"):
        read_lines(path)


def test_a_resumed_run_writes_every_step_once(tmp_path: Path) -> None:
    first = Monitor(tmp_path, LogConfig(), 0, {})
    for step in (1, 2, 3):
        first.log(step, {"x": step})
    first.close()
    again = Monitor(tmp_path, LogConfig(), 2, {})
    again.log(3, {"x": 30})
    again.log_dev_evaluation(3, {"look/a/accuracy": 0.5})
    again.close()
    assert [(line["step"], line["x"]) for line in read_lines(tmp_path / "metrics.jsonl")] == [
        (1, 1), (2, 2), (3, 30),
    ]  # fmt: skip


def test_tensorboard_gets_numbers_and_forgets_what_is_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Monitor(tmp_path, LogConfig(tensorboard=True), 0, {})
    for step in (1, 2, 3):
        first.log(step, {"reward/answer": step, "mode": "x", "bad": float("inf")})
    first.close()
    again = Monitor(tmp_path, LogConfig(tensorboard=True), 2, {})
    again.log(3, {"reward/answer": 30.0})
    again.log_dev_evaluation(3, {"look/a/accuracy": 0.5})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"reward/answer", "look/a/accuracy"}
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("reward/answer")] == [
        (1, 1),
        (2, 2),
        (3, 30),
    ]


class Wandb(SimpleNamespace):
    """As much of the package as is used."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(util=SimpleNamespace(generate_id=lambda: "abc"), seen=[], began=[], fails=fails)

    def init(self, **settings: Any) -> Any:
        if self.fails:
            raise RuntimeError("no API key\nconfigured")
        self.began.append(settings)
        return SimpleNamespace(
            log=self.seen.append, finish=lambda: self.seen.append("end"), define_metric=lambda *a, **k: None
        )


def test_wandb_is_taken_up_again_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (0, 1):
        monitor = Monitor(tmp_path, LogConfig(wandb="project"), step, {"seed": 1})
        monitor.log(step + 1, {"x": 1.5, "text": "no"})
        monitor.close()
    assert [began["id"] for began in wandb.began] == ["abc", "abc"]
    assert wandb.began[0]["config"] == {"seed": 1}
    assert wandb.seen == [{"step": 1, "x": 1.5}, "end", {"step": 2, "x": 1.5}, "end"]


def test_wandb_that_refuses_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Wandb(fails=True))
    with pytest.raises(ConfigError, match=r"log\.wandb: no API key configured"):
        Monitor(tmp_path, LogConfig(wandb="project"), 0, {})
