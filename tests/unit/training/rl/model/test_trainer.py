"""The trainer: one optimiser step is the same however its rows are spread, and never ruins the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mirl_core.errors import TrainingError
from mirl_core.training.rl.model import trainer as trainer_module
from mirl_core.training.rl.model.encoding import RenderedPrompts
from mirl_core.training.rl.model.objective import Normalizers, normalized_loss, token_losses
from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.model.trainer import Trainer
from mirl_core.training.rl.planners.rows import TrainingRow
from tests.unit.training.rl.model.policy_cases import (
    conversation,
    furthest,
    gradients,
    make_policy,
    make_row,
    make_rows,
    weights_of,
)


def make_trainer(weights: torch.dtype = torch.float32, steps: int = 10, **changes: Any) -> Trainer:
    policy = make_policy(weights, tiny=True, **changes)
    return Trainer(policy, policy.settings, steps, max_tokens=64)


def after_steps(count: int, **changes: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights after so many steps in float64, and the last step's metrics."""
    trainer = make_trainer(torch.float64, **changes)
    metrics: dict[str, float] = {}
    for _ in range(count):
        metrics = trainer.step(make_rows())
    return weights_of(trainer.policy), metrics


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
def test_forward_passes_do_not_change_a_step(normalization: str) -> None:
    """1 x 8 = 8 x 1, with uneven rows of two segments; more passes than some prompts have rows."""
    whole, figures = after_steps(2, normalization=normalization, accumulate=1)
    split, others = after_steps(2, normalization=normalization, accumulate=8)
    start = weights_of(make_policy(torch.float64, tiny=True))
    moved = furthest(whole, start)
    assert moved > 1e-3
    # AdamW divides by the gradient's own size, which blows up what rounding does to the smallest of them.
    assert furthest(whole, split) < 1e-8 * moved
    for name in ("loss", "loss/description", "loss/reasoning", "grad_norm", "entropy", "mismatch/mean"):
        assert others[name] == pytest.approx(figures[name], rel=1e-7)


def test_a_forward_pass_without_rows_changes_nothing() -> None:
    few = [make_row(conversation("Sum?"), 5, 1), make_row(conversation("Sum?", 1), 9, 2)]
    results = []
    for passes in (1, 5):
        trainer = make_trainer(torch.float64, accumulate=passes)
        trainer.step(few)
        results.append(weights_of(trainer.policy))
    assert furthest(*results) < 1e-8


def test_a_step_without_rows_leaves_everything_as_it_is() -> None:
    trainer = make_trainer(weight_decay=0.1)
    trainer.step(make_rows())
    before = weights_of(trainer.policy)
    metrics = trainer.step([])
    assert furthest(before, weights_of(trainer.policy)) == 0
    assert metrics["rows"] == 0
    assert "loss" not in metrics
    assert trainer.step_count == 2


def test_weight_decay_is_for_matrices_alone() -> None:
    """Without any gradient AdamW leaves what decay leaves: w (1 − rate · decay), biases and norms whole."""
    trainer = make_trainer(weight_decay=0.5, learning_rate=0.1)
    before = weights_of(trainer.policy)
    trainer.step([replace(row, advantage=0.0) for row in make_rows()])
    after = weights_of(trainer.policy)
    matrices = {name for name, value in before.items() if value.ndim > 1}
    vectors = before.keys() - matrices
    assert matrices
    assert any("norm" in name for name in vectors)
    assert any(name.endswith("bias") for name in vectors)
    for name, value in before.items():
        expected = 0.95 * value if name in matrices else value
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=0)


def segment_losses(policy: Policy, rows: list[TrainingRow]) -> dict[str, Tensor]:
    """Each segment's share of a step's loss."""
    batch = policy.encode(rows)
    new = policy.logprobs(batch)
    losses = token_losses(
        new, new.detach(), batch.sampler, None, batch.advantages, batch.mask, policy.settings
    )
    factors = new.new_tensor(Normalizers.of(rows).factors(rows, policy.settings, 64))
    by_segment = {}
    for segment in ("description", "reasoning"):
        chosen = torch.tensor([row.segment == segment for row in rows])
        by_segment[segment] = normalized_loss(losses.loss, factors * chosen)
    return by_segment


@pytest.mark.parametrize(("changed", "kept"), [("reasoning", "description"), ("description", "reasoning")])
def test_one_segment_s_rewards_do_not_reach_the_other_s_gradient(changed: str, kept: str) -> None:
    policy, rows = make_policy(tiny=True), make_rows()
    others = [replace(row, advantage=-3 * row.advantage) if row.segment == changed else row for row in rows]
    before, after = segment_losses(policy, rows), segment_losses(policy, others)
    mine, same = gradients(policy, before[kept]), gradients(policy, after[kept])
    assert mine.keys() == same.keys()
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert any(value.any() for value in mine.values())
    assert furthest(gradients(policy, before[changed]), gradients(policy, after[changed])) > 1e-3


def test_segment_weights_leave_out_a_segment() -> None:
    """What is weighed by 0 does not move the weights, whatever its rewards."""
    results = []
    for factor in (1.0, 50.0):
        trainer = make_trainer(reasoning_weight=0.0)
        rows = [
            replace(row, advantage=factor * row.advantage) if row.segment == "reasoning" else row
            for row in make_rows()
        ]
        trainer.step(rows)
        results.append(weights_of(trainer.policy))
    assert furthest(*results) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_weights(bad: float) -> None:
    trainer = make_trainer(accumulate=2)
    trainer.step(make_rows())
    before, moments = weights_of(trainer.policy), trainer.state()["optimizer"]
    rows = make_rows()
    rows[3] = replace(rows[3], advantage=bad)
    with pytest.raises(TrainingError, match="step 1: description loss"):
        trainer.step(rows)
    assert furthest(before, weights_of(trainer.policy)) == 0
    assert trainer.step_count == 1
    after = trainer.state()["optimizer"]
    assert all(
        torch.equal(value, after["state"][name][key])
        for name, kinds in moments["state"].items()
        for key, value in kinds.items()
    )
    assert trainer.step(make_rows())["loss"] == pytest.approx(trainer_after_two_steps()["loss"])


def trainer_after_two_steps() -> dict[str, float]:
    trainer = make_trainer(accumulate=2)
    trainer.step(make_rows())
    return trainer.step(make_rows())


def test_an_exploding_gradient_leaves_the_weights() -> None:
    trainer = make_trainer(stop_grad_norm=10.0)
    before = weights_of(trainer.policy)
    rows = [replace(row, advantage=1e4 * row.advantage) for row in make_rows()]
    with pytest.raises(TrainingError, match=r"above 10") as caught:
        trainer.step(rows)
    assert caught.value.param == "optimizer.stop_grad_norm"
    assert furthest(before, weights_of(trainer.policy)) == 0


def test_several_updates_clip_against_the_weights_before_the_first() -> None:
    trainer = make_trainer(updates=3, learning_rate=0.01, clip_low=0.001, clip_high=0.001)
    metrics = trainer.step(make_rows())
    # The first update's ratios are all 1: the others' old log-probabilities are from before it.
    assert metrics["ratio/max"] > 1.01
    assert metrics["clip/low"] + metrics["clip/high"] > 0.1
    assert trainer.step_count == 1
    once = make_trainer(learning_rate=0.01).step(make_rows())
    assert once["ratio/max"] == once["ratio/mean"] == 1
    assert once["clip/low"] == once["clip/high"] == 0
    assert once["mismatch/mean"] == pytest.approx(metrics["mismatch/mean"], rel=1e-4)


def test_the_reference_holds_the_policy_back() -> None:
    apart = []
    for kl in (1e-9, 10.0):
        trainer = make_trainer(kl=kl, learning_rate=1e-3)
        assert trainer.step(make_rows())["kl"] == pytest.approx(0, abs=1e-6)
        for _ in range(15):
            metrics = trainer.step(make_rows())
        apart.append(metrics["kl"])
    assert 0 <= apart[1] < 0.5 * apart[0]


def test_learning_rate() -> None:
    trainer = make_trainer(steps=12, learning_rate=1.0, warmup=2, schedule="cosine")
    rates = [trainer.learning_rate(step) for step in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.55)
    assert rates[12] == pytest.approx(0.1)
    assert rates == sorted(rates[:3]) + sorted(rates[3:], reverse=True)
    assert make_trainer(learning_rate=1.0).learning_rate(99) == 1.0
    assert trainer.step(make_rows())["learning_rate"] == 0.5


def test_it_learns() -> None:
    """Rows of positive advantage get likelier, others less likely."""
    rows = [make_row(conversation("Sum?", i), 8, i) for i in range(4)]
    rows = [replace(row, advantage=1.0 if place < 2 else -1.0) for place, row in enumerate(rows)]
    trainer = make_trainer(learning_rate=3e-4, importance_cap=None)
    batch = trainer.policy.encode(rows)
    with torch.no_grad():
        before = trainer.policy.logprobs(batch).sum(1)
    for _ in range(5):
        metrics = trainer.step(rows)
    with torch.no_grad():
        gained = trainer.policy.logprobs(batch).sum(1) - before
    assert (gained[:2] > 1).all()
    assert (gained[2:] < -1).all()
    assert metrics["rows"] == 4
    assert metrics["tokens/trained"] == 28
    assert metrics["tokens/read"] == 32 + sum(len(prompt) for prompt in batch.prompts)


def test_a_step_says_how_long_it_took_and_how_much_of_the_device_it_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peak, pause, render = 1e12, 0.05, Policy.render

    def slow(policy: Policy, rows: Sequence[TrainingRow], rendered: RenderedPrompts) -> None:
        time.sleep(pause)
        render(policy, rows, rendered)

    monkeypatch.setattr(Policy, "render", slow)
    monkeypatch.setattr(trainer_module, "peak_flops", lambda device, dtype: peak)
    trainer = make_trainer(updates=2)
    language, whole = trainer.policy.model.get_decoder(), trainer.policy.model
    parameters = sum(parameter.numel() for parameter in language.parameters())
    assert 0 < parameters < sum(parameter.numel() for parameter in whole.parameters())
    began = time.perf_counter()
    metrics = trainer.step(make_rows())
    assert pause <= metrics["seconds/train"] <= time.perf_counter() - began
    # Two operations per parameter and token forward, four backward.
    flops = 6 * parameters * metrics["tokens/read"]
    assert metrics["mfu"] == pytest.approx(flops / (metrics["seconds/train"] * peak))
    monkeypatch.undo()
    assert "mfu" not in trainer.step(make_rows()), "the peak of a CPU is not known"


def test_bfloat16_and_activation_checkpointing_train_alike() -> None:
    exact = make_trainer(accumulate=2)
    near = make_trainer(torch.bfloat16, accumulate=2, dtype="bfloat16", activation_checkpointing=True)
    for _ in range(2):
        ours, theirs = near.step(make_rows()), exact.step(make_rows())
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.05 * theirs["entropy"])
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.1)
    assert all(value.dtype == torch.float32 for value in near.policy.trained().values())
