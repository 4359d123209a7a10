"""The objective against TRL 1.16: `GRPOTrainer._compute_loss` on the same rows, value and gradient.

TRL runs on a trainer without its constructor, which would load a model and a data set: `_compute_loss` reads
its settings, and asks one method for log-probabilities, which here come from a small network that MIRL's
objective is given too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from mirl_core.training.rl.model.objective import (
    Normalizers,
    TokenLosses,
    diagnose,
    normalized_loss,
    token_losses,
)
from mirl_core.training.rl.planners.advantages import group_advantages
from mirl_core.training.rl.planners.rows import Segment, TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig
from mirl_core.types import Conversation

LossType = Literal["bnpo", "dapo", "grpo", "dr_grpo"]
# TRL's name of the loss with each of MIRL's normalisations.
SAME: dict[LossType, Literal["token", "sequence", "constant"]] = {
    "bnpo": "token",
    "dapo": "token",
    "grpo": "sequence",
    "dr_grpo": "constant",
}
MAX_TOKENS = 11
LENGTH = 8
PROMPT = Conversation(({"role": "user", "content": "?"},))


def row(segment: Segment, prefix: int, length: int, advantage: float) -> TrainingRow:
    """`prefix` tokens that are not in the loss, then those that are."""
    mask = tuple(place >= prefix for place in range(length))
    ids = tuple((place * 5 + length) % 13 for place in range(length))
    return TrainingRow(PROMPT, ids, mask, (0.0,) * length, advantage, segment, f"q/{segment}")


REASONING = [
    row("reasoning", prefix, length, advantage)
    for (prefix, length), advantage in zip(
        [(0, 8), (3, 8), (2, 5), (1, 7), (4, 6), (0, 3)],
        group_advantages([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], floor=1e-4),
        strict=True,
    )
]
DESCRIPTIONS = [
    row("description", prefix, length, advantage)
    for (prefix, length), advantage in zip(
        [(1, 6), (1, 4), (1, 8)], group_advantages([0.3, -0.1, 0.6], floor=0.05), strict=True
    )
]


class Policy(torch.nn.Module):
    """Float32 log-probabilities of padded completions."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embed = torch.nn.Parameter(torch.randn(13, 6, generator=generator))
        self.head = torch.nn.Parameter(torch.randn(6, 13, generator=generator))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and entropies."""
        hidden = torch.tanh(self.embed[ids.roll(1, dims=1)].cumsum(1))
        every = torch.log_softmax(hidden @ self.head, dim=-1)
        return every.gather(-1, ids.unsqueeze(-1)).squeeze(-1), -(every.exp() * every).sum(-1)


class Batch:
    """Rows as padded tensors, with log-probabilities that differ enough to be clipped on both sides."""

    def __init__(self, rows: Sequence[TrainingRow], policy: Policy) -> None:
        self.rows = rows

        def padded(values: Sequence[Sequence[float]]) -> Tensor:
            return torch.tensor([[*sequence, *[0] * (LENGTH - len(sequence))] for sequence in values])

        self.ids = padded([training_row.completion_ids for training_row in rows]).long()
        self.mask = padded([training_row.loss_mask for training_row in rows]).bool()
        self.complete = padded([(1,) * len(training_row.completion_ids) for training_row in rows]).long()
        self.advantages = torch.tensor([training_row.advantage for training_row in rows])
        generator = torch.Generator().manual_seed(len(rows))
        with torch.no_grad():
            new, _ = policy(self.ids)
        self.old, self.sampler, self.reference = (
            new + 0.8 * (torch.rand(new.shape, generator=generator) - 0.5) for _ in range(3)
        )

    def part(self, places: Sequence[int]) -> Batch:
        """Some of the rows, everything else unchanged."""
        other = object.__new__(Batch)
        for name, value in vars(self).items():
            chosen = value[list(places)] if isinstance(value, Tensor) else [value[place] for place in places]
            setattr(other, name, chosen)
        return other


@pytest.fixture(scope="module")
def grpo_trainer() -> Any:
    """TRL's class, imported without vLLM, of which it takes another version than is installed."""
    with patch("trl.import_utils.is_vllm_available", return_value=False):
        from trl.trainer.grpo_trainer import GRPOTrainer
    return GRPOTrainer


def trl_loss(
    trainer_class: Any,
    policy: Policy,
    batch: Batch,
    loss_type: LossType,
    settings: OptimizerConfig,
    *,
    passes: int = 1,
    step_tokens: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """TRL's loss of one forward pass out of `passes` of a step, and what it logs."""
    trainer = object.__new__(trainer_class)
    read_by_compute_loss: dict[str, Any] = {
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": settings.kl,
        "loss_type": loss_type,
        "epsilon_low": settings.clip_low,
        "epsilon_high": settings.clip_high,
        "use_vllm": settings.importance_cap is not None,
        "vllm_importance_sampling_correction": True,
        "max_completion_length": MAX_TOKENS,
        "current_gradient_accumulation_steps": passes,
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=passes),
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "model": policy.train(),
        "accelerator": SimpleNamespace(
            num_processes=1, gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor
        ),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (*policy(batch.ids), None),
    }
    for name, value in read_by_compute_loss.items():
        setattr(trainer, name, value)
    inputs = {
        "prompt_ids": torch.ones((len(batch.rows), 2), dtype=torch.long),
        "prompt_mask": torch.ones((len(batch.rows), 2), dtype=torch.long),
        "completion_ids": batch.ids,
        "completion_mask": batch.complete,
        # What TRL calls tool tokens are tokens that the policy is not trained on.
        "tool_mask": batch.mask.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": torch.tensor(float(step_tokens or batch.mask.sum())),
    }
    if settings.importance_cap is not None:
        # `vllm_importance_sampling_mode="token_truncate"`, as TRL computes it when it samples.
        difference = (batch.old - batch.sampler) * batch.mask
        inputs["importance_sampling_ratio"] = difference.exp().clamp(max=settings.importance_cap)
    loss = trainer._compute_loss(policy, inputs)
    return loss, {name: value[0] for name, value in trainer._metrics["train"].items()}


def mirl_losses(policy: Policy, batch: Batch, settings: OptimizerConfig) -> tuple[TokenLosses, Tensor]:
    new, _ = policy(batch.ids)
    reference = batch.reference if settings.kl else None
    losses = token_losses(new, batch.old, batch.sampler, reference, batch.advantages, batch.mask, settings)
    return losses, new


def mirl_loss(policy: Policy, batch: Batch, settings: OptimizerConfig, totals: Normalizers) -> Tensor:
    losses, _ = mirl_losses(policy, batch, settings)
    return normalized_loss(losses.loss, torch.tensor(totals.factors(batch.rows, settings, MAX_TOKENS)))


def gradients(loss: Tensor, policy: Policy) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(policy.parameters()))


def assert_same(ours: Tensor, theirs: Tensor, policy: Policy) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for mine, other in zip(gradients(ours, policy), gradients(theirs, policy), strict=True):
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 1.15])
@pytest.mark.parametrize("kl", [0.0, 0.2])
@pytest.mark.parametrize("loss_type", list(SAME))
def test_value_and_gradient_equal_trl(
    grpo_trainer: Any, loss_type: LossType, kl: float, cap: float | None
) -> None:
    settings = OptimizerConfig(
        normalization=SAME[loss_type], kl=kl, importance_cap=cap, clip_low=0.1, clip_high=0.18
    )
    policy = Policy()
    batch = Batch(REASONING, policy)
    losses, new = mirl_losses(policy, batch, settings)
    # The comparison means something only where bounds and cap are reached, and not everywhere.
    assert 0 < int(losses.clipped_low.sum()) < int(batch.mask.sum()) / 2
    assert 0 < int(losses.clipped_high.sum()) < int(batch.mask.sum()) / 2
    assert bool(losses.capped.any()) == (cap is not None)

    theirs, logged = trl_loss(grpo_trainer, policy, batch, loss_type, settings)
    assert_same(mirl_loss(policy, batch, settings, Normalizers.of(batch.rows)), theirs, policy)

    ours = diagnose(losses, new, batch.mask, batch.rows).metrics()
    assert ours["clip/low"] == pytest.approx(logged["clip_ratio/low_mean"])
    assert ours["clip/high"] == pytest.approx(logged["clip_ratio/high_mean"])
    assert ours["kl"] == pytest.approx(logged.get("kl", 0.0), rel=1e-5)


@pytest.mark.parametrize("loss_type", list(SAME))
def test_on_policy_gradients_equal_trl(grpo_trainer: Any, loss_type: LossType) -> None:
    settings = OptimizerConfig(normalization=SAME[loss_type], importance_cap=None)
    policy = Policy()
    batch = Batch(REASONING, policy)
    with torch.no_grad():
        batch.old, _ = policy(batch.ids)
    theirs, _ = trl_loss(grpo_trainer, policy, batch, loss_type, settings)
    assert_same(mirl_loss(policy, batch, settings, Normalizers.of(batch.rows)), theirs, policy)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_accumulated_gradients_equal_trl(grpo_trainer: Any, loss_type: LossType) -> None:
    # `bnpo` is left out: it normalises every forward pass by its own tokens, which MIRL never does.
    settings = OptimizerConfig(normalization=SAME[loss_type], kl=0.1, importance_cap=1.15)
    policy = Policy()
    whole = Batch(REASONING, policy)
    totals, tokens = Normalizers.of(REASONING), int(whole.mask.sum())
    ours, theirs = torch.zeros(()), torch.zeros(())
    for part in (whole.part(range(3)), whole.part(range(3, 6))):
        ours = ours + mirl_loss(policy, part, settings, totals)
        share, _ = trl_loss(grpo_trainer, policy, part, loss_type, settings, passes=2, step_tokens=tokens)
        theirs = theirs + share
    assert_same(ours, theirs, policy)


@pytest.mark.parametrize("loss_type", list(SAME))
def test_two_segments_are_two_trl_losses_added(grpo_trainer: Any, loss_type: LossType) -> None:
    settings = OptimizerConfig(
        normalization=SAME[loss_type], kl=0.1, description_weight=0.7, reasoning_weight=1.3
    )
    policy = Policy()
    rows = [*REASONING[:2], *DESCRIPTIONS, *REASONING[2:]]
    batch = Batch(rows, policy)
    ours = mirl_loss(policy, batch, settings, Normalizers.of(rows))
    described, _ = trl_loss(grpo_trainer, policy, batch.part(range(2, 5)), loss_type, settings)
    reasoned, _ = trl_loss(grpo_trainer, policy, batch.part([0, 1, *range(5, 9)]), loss_type, settings)
    assert_same(ours, 0.7 * described + 1.3 * reasoned, policy)
