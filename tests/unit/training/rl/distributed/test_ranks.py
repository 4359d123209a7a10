"""Two ranks on gloo train as one process does: replicated (DDP) and sharded (FSDP2), rows spread unevenly."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.model.trainer import Trainer
from mirl_core.training.rl.recipe.config import OptimizerConfig
from tests.fixtures.rl_ranks import VARIANTS
from tests.unit.training.rl.model.policy_cases import furthest, make_policy, make_rows

# A minute of two processes: part of `make test-full`.
pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, str(ROOT / "tests/fixtures/rl_ranks.py"), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        try:
            process.wait(timeout=240)
        finally:
            # Killed, it would leave ranks that wait for each other.
            process.terminate()
            process.wait()
    assert process.returncode == 0, (folder / "log").read_text()[-4000:]
    return folder


def alike(first: dict[str, Tensor], second: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """The cosine between two ways from the start."""
    ways = [
        torch.cat([(end[key] - start[key]).flatten() for key in sorted(start)]) for end in (first, second)
    ]
    return float(torch.nn.functional.cosine_similarity(*ways, dim=0))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_ranks_equal_one_process(trained: Path, name: str) -> None:
    saved: dict[str, Any] = torch.load(trained / f"{name}.pt", weights_only=True)
    policy = make_policy(**{"weights": torch.float64, "tiny": True, **VARIANTS[name]})
    start = policy.weights()
    start = {key: value.clone() for key, value in start.items()}
    trainer = Trainer(policy, policy.settings, 10)
    expected = [trainer.step(make_rows()) for _ in range(2)]
    moved = furthest(policy.weights(), start)
    assert moved > 1e-4
    half = name == "fsdp2-half"
    if half:
        # Sums in bfloat16 depend on how rows are spread, and AdamW blows up the smallest gradients.
        assert alike(saved["weights"], policy.weights(), start) > 0.99
    else:
        assert furthest(saved["weights"], policy.weights()) < 1e-7 * moved
    for ours, theirs in zip(saved["metrics"], expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds/train", "tokens/read"}:
            assert ours[key] == pytest.approx(theirs[key], rel=0.1 if half else 1e-6, abs=0.02 * half + 1e-9)
    assert saved["refused"]
    assert saved["resumed_exactly"]
    assert saved["step"] == 2


def test_sharded_ranks_keep_half_of_the_optimiser_s_state(trained: Path) -> None:
    whole = torch.load(trained / "ddp.pt", weights_only=True)["moments"]
    half = torch.load(trained / "fsdp2.pt", weights_only=True)["moments"]
    assert 0.5 <= half / whole < 0.55


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2-adapters"])
def test_sharded_ranks_export_a_whole_model(trained: Path, name: str) -> None:
    saved = torch.load(trained / f"{name}.pt", weights_only=True)["weights"]
    policy = Policy.load(str(trained / f"{name}-export"), OptimizerConfig())
    assert furthest(policy.weights(), saved) == 0


@pytest.mark.parametrize("name", list(VARIANTS))
def test_ranks_gather_weights_one_at_a_time_for_a_transfer(trained: Path, name: str) -> None:
    saved = torch.load(trained / f"{name}.pt", weights_only=True)
    sent, weights = saved["sent"], saved["weights"]
    # A head that is the embedding is sent once.
    assert weights.keys() - sent.keys() <= {"lm_head.weight"}
    for key, value in sent.items():
        assert torch.equal(value, weights[key].to(torch.float64)), key


def test_ranks_may_have_fewer_rows_than_updates(trained: Path) -> None:
    first, second = (torch.load(trained / f"updates-{rank}.pt", weights_only=True) for rank in range(2))
    del first["seconds/train"], second["seconds/train"]
    assert first == second
    assert first["rows"] == 11
    assert all(math.isfinite(value) for value in first.values())


def test_another_model_s_checkpoint_is_refused_on_every_rank(trained: Path) -> None:
    assert (trained / "refused-0").exists()
    assert (trained / "refused-1").exists()
