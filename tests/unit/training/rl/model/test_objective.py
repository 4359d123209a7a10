"""The objective: its gradient, its normalisations, and that no reward leaks into the other segment."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from mirl_core.training.rl.model.objective import (
    SEGMENTS,
    Diagnostics,
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

PROMPT = Conversation(({"role": "user", "content": "?"},))
Normalization = Literal["token", "sequence", "constant"]
NORMALIZATIONS: tuple[Normalization, ...] = ("token", "sequence", "constant")
MAX_TOKENS = 9


def row(segment: Segment, mask: str, advantage: float = 1.0) -> TrainingRow:
    """A row whose mask is written as `..xxx`."""
    kept = tuple(mark == "x" for mark in mask)
    return TrainingRow(
        PROMPT, tuple(range(len(mask))), kept, (-1.0,) * len(mask), advantage, segment, f"q/{segment}"
    )


ROWS = (
    row("description", ".xxxxx", 0.7),
    row("reasoning", "...xxx", -1.2),
    row("description", ".xx...", -0.4),
    row("reasoning", "..xxxx", 0.9),
    row("trajectory", ".xxxx.", 1.1),
)


def masks(rows: Sequence[TrainingRow]) -> Tensor:
    return torch.tensor([training_row.loss_mask for training_row in rows])


def advantages(rows: Sequence[TrainingRow]) -> Tensor:
    return torch.tensor([training_row.advantage for training_row in rows], dtype=torch.float64)


def logprobs(seed: int, count: int = len(ROWS)) -> Tensor:
    """(count, 6) plausible log-probabilities, far enough apart to clip on both sides."""
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(count, 6, generator=generator, dtype=torch.float64) - 0.05


def loss_of(
    new: Tensor,
    old: Tensor,
    sampler: Tensor,
    reference: Tensor | None,
    settings: OptimizerConfig,
    rows: Sequence[TrainingRow] = ROWS,
    totals: Normalizers | None = None,
) -> Tensor:
    losses = token_losses(new, old, sampler, reference, advantages(rows), masks(rows), settings)
    factors = (totals or Normalizers.of(rows)).factors(rows, settings, MAX_TOKENS)
    return normalized_loss(losses.loss, torch.tensor(factors, dtype=torch.float64))


def by_hand(new: Tensor, old: Tensor, sampler: Tensor, reference: Tensor, settings: OptimizerConfig) -> float:
    """The loss as the formula reads, a token at a time."""
    total = 0.0
    for segment in SEGMENTS:
        rows = [
            (place, training_row)
            for place, training_row in enumerate(ROWS)
            if training_row.segment == segment
        ]
        weight = settings.description_weight if segment == "description" else settings.reasoning_weight
        tokens = sum(training_row.trained_tokens for _, training_row in rows)
        for place, training_row in rows:
            inside = 0.0
            for t in itertools.compress(range(6), training_row.loss_mask):
                n, o, s, r = (float(tensor[place, t]) for tensor in (new, old, sampler, reference))
                ratio = math.exp(n - o)
                clipped = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
                gain = min(ratio * training_row.advantage, clipped * training_row.advantage)
                if settings.importance_cap is not None:
                    gain *= min(math.exp(o - s), settings.importance_cap)
                inside += -gain + settings.kl * (math.exp(r - n) - (r - n) - 1)
            divisor = {
                "token": tokens,
                "sequence": len(rows) * training_row.trained_tokens,
                "constant": len(rows) * MAX_TOKENS,
            }[settings.normalization]
            total += weight * inside / divisor
    return total


CASES = [
    OptimizerConfig(
        normalization=normalization, kl=kl, importance_cap=cap, clip_high=0.28, description_weight=0.5
    )
    for normalization in NORMALIZATIONS
    for kl in (0.0, 0.3)
    for cap in (None, 1.1)
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: f"{s.normalization}-{s.kl}-{s.importance_cap}")
def test_the_loss_is_the_formula(settings: OptimizerConfig) -> None:
    new, old, sampler, reference = map(logprobs, range(4))
    loss = loss_of(new, old, sampler, reference, settings)
    assert float(loss) == pytest.approx(by_hand(new, old, sampler, reference, settings), rel=1e-12)


class Tiny(torch.nn.Module):
    """A float64 policy of a few parameters: (B, T) log-probabilities of the tokens of some rows."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.embed = torch.nn.Parameter(torch.randn(7, 3, generator=generator, dtype=torch.float64))
        self.head = torch.nn.Parameter(torch.randn(3, 7, generator=generator, dtype=torch.float64))

    def forward(self, rows: Sequence[TrainingRow]) -> Tensor:
        ids = torch.tensor([training_row.completion_ids for training_row in rows])
        shifted = torch.cat([torch.full_like(ids[:, :1], 6), ids[:, :-1]], dim=1)
        # What was sampled before matters: a running mean stands in for attention.
        hidden = self.embed[shifted].cumsum(1) / torch.arange(1, 7).view(1, -1, 1)
        every = torch.log_softmax(torch.tanh(hidden) @ self.head, dim=-1)
        return every.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("settings", CASES, ids=lambda s: f"{s.normalization}-{s.kl}-{s.importance_cap}")
def test_the_gradient_equals_finite_differences(settings: OptimizerConfig) -> None:
    policy = Tiny()
    with torch.no_grad():
        start = policy(ROWS)
        noise = [1.2 * (logprobs(seed) + 0.55) for seed in range(3)]
        old, sampler, reference = (start + offset for offset in noise)
    losses = token_losses(policy(ROWS), old, sampler, reference, advantages(ROWS), masks(ROWS), settings)
    # The test means something only where both bounds stop some tokens, and not all.
    assert losses.clipped_low.any()
    assert losses.clipped_high.any()
    assert (losses.clipped_low | losses.clipped_high).sum() < masks(ROWS).sum()
    if settings.importance_cap is not None:
        assert losses.capped.any()

    loss_of(policy(ROWS), old, sampler, reference, settings).backward()
    step = 1e-6
    for parameter in policy.parameters():
        assert parameter.grad is not None
        for place in itertools.product(*map(range, parameter.shape)):
            with torch.no_grad():
                sides = []
                for sign in (1, -1):
                    parameter[place] += sign * step
                    sides.append(float(loss_of(policy(ROWS), old, sampler, reference, settings)))
                    parameter[place] -= sign * step
            assert float(parameter.grad[place]) == pytest.approx(
                (sides[0] - sides[1]) / (2 * step), rel=1e-6, abs=1e-8
            )


@pytest.mark.parametrize("cap", [None, 2.0])
def test_the_on_policy_gradient_is_that_of_reinforce(cap: float | None) -> None:
    new = logprobs(0).requires_grad_()
    # Whether or not the caller detached them: old and sampler are numbers.
    loss_of(new, new, new, None, OptimizerConfig(importance_cap=cap)).backward()
    tokens = {"description": 7, "reasoning": 7, "trajectory": 4}
    expected = torch.tensor(
        [
            [
                -training_row.advantage / tokens[training_row.segment] if kept else 0.0
                for kept in training_row.loss_mask
            ]
            for training_row in ROWS
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(new.grad, expected)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_masked_is_never_looked_at(poison: float) -> None:
    settings = OptimizerConfig(kl=0.1)
    clean = [logprobs(seed) for seed in range(4)]
    losses, gradients = [], []
    for value in (0.0, poison):
        tables = [torch.where(masks(ROWS), table, torch.full_like(table, value)) for table in clean]
        new = tables[0].requires_grad_()
        loss = loss_of(new, tables[1], tables[2], tables[3], settings)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(new.grad)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]


def test_the_kl_term_needs_a_reference() -> None:
    new = logprobs(0)
    with pytest.raises(ValueError, match="reference"):
        loss_of(new, new, new, None, OptimizerConfig(kl=0.1))


def test_kl_is_estimated_even_where_it_has_no_weight() -> None:
    new, reference = logprobs(0), logprobs(1)
    losses = token_losses(
        new, new, new, reference, advantages(ROWS), masks(ROWS), OptimizerConfig(importance_cap=None)
    )
    assert float(losses.kl.sum()) > 0
    torch.testing.assert_close(losses.loss, -advantages(ROWS).unsqueeze(1) * masks(ROWS))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("split", [(1, 4), (2, 3), (1, 1, 1, 1, 1)])
def test_forward_passes_and_ranks_add_up_to_the_whole(
    normalization: Normalization, split: tuple[int, ...]
) -> None:
    settings = OptimizerConfig(normalization=normalization, kl=0.1, reasoning_weight=0.3)
    tables = [logprobs(seed) for seed in range(4)]
    whole = loss_of(tables[0], tables[1], tables[2], tables[3], settings)
    places = itertools.accumulate(split, initial=0)
    parts = [slice(start, end) for start, end in itertools.pairwise(places)]
    # As the trainer does it: every part counts its own, and the counts are summed.
    counts = [sum(each) for each in zip(*(Normalizers.of(ROWS[part]).counts for part in parts), strict=True)]
    totals = Normalizers.from_counts([float(count) for count in counts])
    assert totals == Normalizers.of(ROWS)
    shares = [loss_of(*(table[part] for table in tables), settings, ROWS[part], totals) for part in parts]
    torch.testing.assert_close(sum(shares, torch.zeros((), dtype=torch.float64)), whole)


def test_a_row_without_trained_tokens_changes_nothing() -> None:
    nothing = row("reasoning", "......")
    assert Normalizers.of([*ROWS, nothing]) == Normalizers.of(ROWS)
    assert Normalizers.of([nothing]).factors([nothing], OptimizerConfig(), MAX_TOKENS) == (0.0,)


def test_weights_belong_to_their_segments() -> None:
    settings = OptimizerConfig(description_weight=0.0, reasoning_weight=2.0)
    factors = Normalizers.of(ROWS).factors(ROWS, settings, MAX_TOKENS)
    assert factors == pytest.approx((0.0, 2 / 7, 0.0, 2 / 7, 2 / 4))


def two_segments(mi: Sequence[float], answers: Sequence[float]) -> list[TrainingRow]:
    """One question's rows as a planner makes them: interleaved, each segment from rewards of its own."""
    described = [
        replace(row("description", ".xxxx."), advantage=advantage)
        for advantage in group_advantages(mi, floor=0.05)
    ]
    # A group of equal rewards makes no rows.
    reasoned = [
        replace(row("reasoning", "..xxxx"), advantage=advantage)
        for advantage in group_advantages(answers, floor=1e-4)
        if len(set(answers)) > 1
    ]
    mixed = itertools.zip_longest(described, reasoned)
    return [training_row for pair in mixed for training_row in pair if training_row is not None]


def gradients_of(rows: Sequence[TrainingRow], segment: Segment, normalization: Normalization) -> Tensor:
    """d loss / d log p of the segment's tokens: all through which its rewards reach any parameter."""
    settings = OptimizerConfig(normalization=normalization, kl=0.05)
    chosen = [place for place, training_row in enumerate(rows) if training_row.segment == segment]
    # What is sampled is the same whatever it is rewarded by.
    tables = {name: iter(logprobs(seed, 40)) for seed, name in enumerate(("description", "reasoning"))}
    drawn = torch.stack([next(tables[training_row.segment]) for training_row in rows])
    new = drawn.clone().requires_grad_()
    losses = loss_of(new, drawn + 0.1, drawn - 0.2, drawn - 0.3, settings, rows)
    (gradient,) = torch.autograd.grad(losses, new)
    return gradient[chosen]


MI = (0.31, 0.07, -0.2, 0.55, 0.31)
ANSWERS = (1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("change", ["scaled", "shuffled", "flat", "drawn"])
def test_answer_rewards_leave_descriptions_bit_identical(change: str, normalization: Normalization) -> None:
    changed = {
        "scaled": [37.5 * reward for reward in ANSWERS],
        "shuffled": random.Random(1).sample(ANSWERS, len(ANSWERS)),
        "flat": [1.0] * len(ANSWERS),
        "drawn": [random.Random(2).gauss(0, 100) for _ in ANSWERS],
    }[change]
    before, after = two_segments(MI, ANSWERS), two_segments(MI, changed)
    kept = [
        [training_row for training_row in rows if training_row.segment == "description"]
        for rows in (before, after)
    ]
    assert kept[0] == kept[1]
    gradients = [gradients_of(rows, "description", normalization) for rows in (before, after)]
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0
    if change in ("shuffled", "drawn"):
        theirs = [gradients_of(rows, "reasoning", normalization) for rows in (before, after)]
        assert not torch.equal(*theirs)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("change", ["scaled", "shuffled", "drawn"])
def test_mi_rewards_leave_reasoning_bit_identical(change: str, normalization: Normalization) -> None:
    changed = {
        "scaled": [37.5 * reward for reward in MI],
        "shuffled": random.Random(1).sample(MI, len(MI)),
        "drawn": [random.Random(2).gauss(0, 100) for _ in MI],
    }[change]
    before, after = two_segments(MI, ANSWERS), two_segments(changed, ANSWERS)
    kept = [
        [training_row for training_row in rows if training_row.segment == "reasoning"]
        for rows in (before, after)
    ]
    assert kept[0] == kept[1]
    assert torch.equal(*(gradients_of(rows, "reasoning", normalization) for rows in (before, after)))
    if change != "scaled":
        assert not torch.equal(
            *(gradients_of(rows, "description", normalization) for rows in (before, after))
        )


def diagnosed(
    rows: Sequence[TrainingRow], tables: Sequence[Tensor], settings: OptimizerConfig
) -> Diagnostics:
    new, old, sampler, reference = tables
    losses: TokenLosses = token_losses(new, old, sampler, reference, advantages(rows), masks(rows), settings)
    return diagnose(losses, new, masks(rows), rows)


def test_diagnostics_are_means_and_maxima_over_trained_tokens() -> None:
    settings = OptimizerConfig(clip_low=0.1, clip_high=0.1, importance_cap=1.5)
    rows = [row("description", "..xx..", 1.0), row("reasoning", "....xx", -1.0)]
    new = torch.full((2, 6), -2.0, dtype=torch.float64)
    ratios, shifts = torch.zeros_like(new), torch.zeros_like(new)
    ratios[0, 2:4], ratios[1, 4:] = torch.tensor([0.8, 1.4]), torch.tensor([0.5, 1.4])
    shifts[0, 2:4], shifts[1, 4:] = torch.tensor([0.0, 0.5]), torch.tensor([-0.2, 0.0])
    ratios[~masks(rows)], shifts[~masks(rows)] = 50.0, 9.0
    old = new - ratios.log()
    metrics = diagnosed(rows, (new, old, old - shifts, new + 0.1), settings).metrics()
    expected = {
        "ratio/mean": (0.8 + 1.4 + 0.5 + 1.4) / 4,
        "ratio/max": 1.4,
        "clip/low": 1 / 4,
        "clip/high": 1 / 4,
        "kl": math.exp(0.1) - 1.1,
        "mismatch/mean": 0.7 / 4,
        "mismatch/max": 0.5,
        "mismatch/kl": (math.exp(0.5) - 1.5 + math.exp(-0.2) - 0.8) / 4,
        "importance/mean": (1 + 1.5 + math.exp(-0.2) + 1) / 4,
        "importance/capped": 1 / 4,
        "entropy": 2.0,
        "clip/low/description": 0.0,
        "clip/high/description": 0.5,
        "clip/low/reasoning": 0.5,
        "mismatch/max/reasoning": 0.2,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert not any(name.endswith("/trajectory") for name in metrics)


@pytest.mark.parametrize(("advantage", "low", "high"), [(-1.0, 1, 0), (0.0, 0, 0), (1.0, 0, 1)])
def test_a_bound_stops_tokens_of_its_own_sign_alone(advantage: float, low: int, high: int) -> None:
    """An advantage of 0 has no gradient that a bound could stop."""
    rows = [row("reasoning", "...xxx", advantage)]
    new = torch.full((1, 6), -2.0, dtype=torch.float64)
    old = new - torch.tensor([[9.0, 9.0, 9.0, 0.5, 1.0, 1.5]], dtype=torch.float64).log()
    losses = token_losses(new, old, old, None, advantages(rows), masks(rows), OptimizerConfig())
    assert (int(losses.clipped_low.sum()), int(losses.clipped_high.sum())) == (low, high)


def test_diagnostics_of_parts_add_up_to_those_of_the_whole() -> None:
    settings = OptimizerConfig()
    tables = [logprobs(seed) for seed in range(4)]
    parts = [
        diagnosed(ROWS[part], [table[part] for table in tables], settings) for part in (slice(2), slice(2, 5))
    ]
    whole = diagnosed(ROWS, tables, settings).metrics()
    assert (parts[0] + parts[1]).metrics() == pytest.approx(whole)


def test_diagnostics_of_nothing_are_none() -> None:
    rows = [row("reasoning", "......")]
    assert diagnosed(rows, [logprobs(seed, 1) for seed in range(4)], OptimizerConfig()).metrics() == {}
