"""Two ranks on gloo train as one process does: replicated (DDP) and sharded (FSDP2), rows spread unevenly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mirl_core.training.rl.config import OptimizerConfig
from mirl_core.training.rl.policy import Policy
from mirl_core.training.rl.trainer import Trainer
from tests.fixtures.rl_ranks import VARIANTS
from tests.unit.training.rl.policy_cases import furthest, make_policy, make_rows

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/fixtures/rl_ranks.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_ranks_equal_one_process(trained: Path, name: str) -> None:
    found: dict[str, Any] = torch.load(trained / f"{name}.pt", weights_only=True)
    policy = make_policy(torch.float64, tiny=True, **VARIANTS[name])
    start = policy.weights()
    start = {key: value.clone() for key, value in start.items()}
    trainer = Trainer(policy, policy.settings, 10)
    expected = [trainer.step(make_rows()) for _ in range(2)]
    moved = furthest(policy.weights(), start)
    assert moved > 1e-4
    assert furthest(found["weights"], policy.weights()) < 1e-7 * moved
    for ours, theirs in zip(found["metrics"], expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds/train", "tokens/read"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-6, abs=1e-9), key
    assert found["refused"]
    assert found["resumed_exactly"]
    assert found["step"] == 2


def test_sharded_ranks_keep_half_of_the_optimiser_s_state(trained: Path) -> None:
    whole = torch.load(trained / "ddp.pt", weights_only=True)["moments"]
    half = torch.load(trained / "fsdp2.pt", weights_only=True)["moments"]
    assert 0.5 <= half / whole < 0.55


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2-adapters"])
def test_sharded_ranks_export_a_whole_model(trained: Path, name: str) -> None:
    found = torch.load(trained / f"{name}.pt", weights_only=True)["weights"]
    policy = Policy.load(str(trained / f"{name}-export"), OptimizerConfig())
    assert furthest(policy.weights(), found) == 0


def test_another_model_s_checkpoint_is_refused_on_every_rank(trained: Path) -> None:
    assert (trained / "refused-0").exists()
    assert (trained / "refused-1").exists()
