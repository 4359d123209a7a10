"""`mirl-train rl` on real vLLM: a run that was killed ends as one that was not, bit for bit."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.report.monitor import read_lines
from mirl_core.training.rl.run import train
from mirl_core.training.rl.state.run_folder import is_finished

pytestmark = pytest.mark.usefixtures("real_vllm")

# Three questions, two a step: every step but the first begins an epoch.
SMALL: dict[str, Any] = {
    "model": "bundled",
    "steps": 3,
    "data": {"sets": ["digits/iid"], "limit": 3, "questions": 2},
    "rollout": {
        "descriptions": 3,
        "keep": 2,
        "forks": 2,
        "description_tokens": 32,
        "max_tokens": 80,
        "serial": True,
    },
    "optimizer": {"learning_rate": 1e-4},
    "checkpoint": {"every": 1, "keep": 10},
    "evaluation": {"sets": ["digits/iid"], "every": 2, "n": 2},
    "log": {"trajectories_every": 1},
}
CLOCKS = ("seconds", "mfu", "memory")


@pytest.fixture
def _exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `mirl-train` sets for a process of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    assert torch.get_num_threads() == threads
    # vLLM's client ends up in reference cycles; freed at interpreter exit it would complain.
    gc.collect()


def recipe(folder: Path, **changes: Any) -> RLRecipe:
    return RLRecipe.model_validate({**SMALL, "output": str(folder), **changes})


def timeless(values: Any) -> Any:
    """Without what a clock said."""
    if isinstance(values, dict):
        return {
            name: timeless(value)
            for name, value in values.items()
            if not any(clock in name for clock in CLOCKS)
        }
    return [timeless(value) for value in values] if isinstance(values, list) else values


def lines(folder: Path, name: str) -> Any:
    return timeless(read_lines(folder / name))


def state(folder: Path) -> Any:
    return torch.load(folder / "checkpoints" / "latest" / "state.pt", weights_only=True)


def same(left: Any, right: Any) -> bool:
    """Equality of nested values, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        return bool(torch.equal(left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def check_equal(first: Path, second: Path) -> None:
    """Both runs ended in the same state, and wrote the same."""
    left, right = state(first), state(second)
    assert left["step"] == right["step"]
    assert left["cursor"] == right["cursor"]
    assert same(left["weights"], right["weights"])
    assert same(left["optimizer"], right["optimizer"])
    assert same(left["random"], right["random"])
    for name in ("metrics.jsonl", "looks.jsonl", "trajectories.jsonl"):
        assert lines(first, name) == lines(second, name), name
        assert lines(first, name), name
    for name in ("model.safetensors", "config.json", "mirl.json"):
        files = [folder / "export" / "final" / name for folder in (first, second)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.usefixtures("_exact")
@pytest.mark.full
async def test_a_run_trains_and_goes_on_from_any_checkpoint(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert await train(recipe(whole), ProcessGroup(), asyncio.Event())
    metrics = read_lines(whole / "metrics.jsonl")
    assert [(line["step"], line["epoch"]) for line in metrics] == [(1, 0), (2, 1), (3, 2)]
    for line in metrics:
        assert line["total/complete_trajectories"] == line["step"] * 2 * 2 * 2
        # Sampler and trainer agree after every sync: on the first step it would be easy.
        assert line["mismatch/max"] < 1e-4
    assert any(line["grad_norm"] > 0 for line in metrics)
    assert [line["step"] for line in read_lines(whole / "looks.jsonl")] == [0, 2, 3]
    assert is_finished(recipe(whole))
    await check_export(whole / "export" / "final")

    # What a kill after step 2 leaves behind if the newest checkpoint is that of step 1.
    shutil.copytree(whole, killed, symlinks=True)
    shutil.rmtree(killed / "export")
    (killed / "finished.json").unlink()
    for step in (2, 3):
        shutil.rmtree(killed / "checkpoints" / f"step-{step:08d}")
    for name in ("metrics.jsonl", "looks.jsonl", "trajectories.jsonl"):
        text = (killed / name).read_text()
        (killed / name).write_text(text[: len(text) * 5 // 6])
    assert await train(recipe(killed), ProcessGroup(), asyncio.Event())
    check_equal(whole, killed)


async def check_export(folder: Path) -> None:
    """The result is a folder that transformers loads and the pipeline runs."""
    from mirl_core.pipeline.events import Finished
    from mirl_core.pipeline.run import Pipeline
    from mirl_core.tasks.data import open_data

    settings = ModelSettings.load(folder)
    assert settings is not None
    engine = await HFEngine.start(str(folder), dtype=torch.float32)
    (question,) = open_data("digits/iid", "dev", 1, 0).questions
    options = MIRLOptions(descriptions=1, keep=1, forks=1, gate="none", early_stop=False)
    run = Pipeline(engine, settings).run(
        question.conversation(), options, Sampling(max_tokens=80, seed=0), RequestContext("export")
    )
    events = [event async for event in run]
    assert isinstance(events[-1], Finished)
    assert events[-1].result.content
    await engine.close()


class Command:
    """`mirl-train rl` in a process of its own, with whatever it starts."""

    def __init__(self, config: Path, *words: str, before: Sequence[str] = ()) -> None:
        command = ["-m", *before, "mirl_core.training.cli", "rl", "--config", str(config), *words]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, path: Path, count: int) -> None:
        """Wait until `path` has so many lines."""
        deadline = time.monotonic() + 240
        while not path.is_file() or path.read_bytes().count(b"\n") < count:
            if self.process.poll() is not None:
                raise AssertionError(f"ended early: {self.process.communicate()[1]}")
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Send a signal, if any; exit code and standard error once nothing of it is left."""
        if number is not None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=240)
        deadline = time.monotonic() + 60
        while alive(self.process.pid):
            assert time.monotonic() < deadline, f"left behind: {alive(self.process.pid)}"
            time.sleep(0.1)
        return self.process.returncode, errors


def alive(group: int) -> list[str]:
    """Commands of the processes of a group that aren't zombies."""
    names = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, rest = (entry / "stat").read_text().rsplit(")", 1)
            except OSError:
                continue
            fields = rest.split()
            if int(fields[2]) == group and fields[0] != "Z":
                names.append(name)
    return names


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    """SIGTERM, SIGKILL while sampling and while training, --max-seconds; over several epochs."""
    changes = {"steps": 6, "checkpoint": {"every": 2, "keep": 2}}
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump({**SMALL, **changes, "output": str(tmp_path / "whole")}))
    code, errors = Command(config).end()
    assert code == 0, errors
    broken = tmp_path / "broken"
    metrics = broken / "metrics.jsonl"
    words = ("--output", str(broken))

    stopped = Command(config, *words)
    stopped.until(metrics, 1)
    code, errors = stopped.end(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert errors.splitlines()[-1] == "mirl-train: interrupted; run the same command again to continue"
    assert "Traceback" not in errors
    saved = json.loads((broken / "checkpoints" / "latest" / "checkpoint.json").read_text())["step"]
    assert saved == len(read_lines(metrics))

    for count, pause in ((saved + 1, 0.0), (saved + 2, 0.7)):
        killed = Command(config, *words)
        killed.until(metrics, count)
        time.sleep(pause)
        code, _ = killed.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
    code, errors = Command(config, *words, "--max-seconds", "0").end()
    assert code == 0, errors
    assert not (broken / "finished.json").exists()
    code, errors = Command(config, *words).end()
    assert code == 0, errors
    check_equal(tmp_path / "whole", broken)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_one_step_off_asynchronous_training_on_vllm(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    rollout = SMALL["rollout"] | {"serial": False, "asynchronous": True}
    config.write_text(yaml.safe_dump({**SMALL, "output": str(tmp_path / "run"), "rollout": rollout}))
    code, errors = Command(config).end()
    assert code == 0, errors
    metrics = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["staleness"] for line in metrics] == [0, 1, 1]
    assert metrics[0]["mismatch/max"] < 1e-4
    # One update older: no longer the same policy, and the importance weights know.
    assert metrics[2]["mismatch/max"] > 1e-4


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_ruined_update_is_one_line_and_leaves_the_last_good_state(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    optimizer = {"learning_rate": 1e-4, "max_grad_norm": 1e-9, "stop_grad_norm": 1e-9}
    config.write_text(yaml.safe_dump({**SMALL, "output": str(tmp_path / "run"), "optimizer": optimizer}))
    code, errors = Command(config).end()
    assert code == 1
    messages = [line for line in errors.splitlines() if line.startswith("mirl-train: ")]
    assert len(messages) == 1
    assert "gradient norm" in messages[0]
    assert "Traceback" not in errors
    assert os.readlink(tmp_path / "run" / "checkpoints" / "latest") == "step-00000000"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """Each rank samples one of the two questions on an engine of its own."""
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump({**SMALL, "steps": 2, "output": str(tmp_path / "one")}))
    code, errors = Command(config).end()
    assert code == 0, errors
    two = tmp_path / "two"
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    code, errors = Command(config, "--output", str(two), before=torchrun).end()
    assert code == 0, errors
    for left, right in zip(
        lines(tmp_path / "one", "metrics.jsonl"), lines(two, "metrics.jsonl"), strict=True
    ):
        for name in ("step", "epoch", "rows", "tokens/trained", "total/complete_trajectories"):
            assert left[name] == right[name], name
        for name in ("loss", "grad_norm", "reward/answer", "reward/description"):
            assert left[name] == pytest.approx(right[name], rel=1e-3, abs=1e-6), name
    assert lines(tmp_path / "one", "looks.jsonl") == lines(two, "looks.jsonl")
    left, right = state(tmp_path / "one")["weights"], state(two)["weights"]
    assert left.keys() == right.keys()
    # Adam makes a whole step of a gradient's sign, so where it is nearly 0 weights may part by a step or two.
    for name in left:
        gap = (left[name] - right[name]).abs()
        assert gap.max() <= 4e-4, name
        assert gap.mean() <= 1e-5, name
