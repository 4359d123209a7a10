"""Clipped policy gradient by segment, as pure functions of tensors.

    ratio_t = p_new(t) / p_old(t)
    loss_t  = −min(ratio_t · A, clip(ratio_t, 1 − low, 1 + high) · A) · min(p_old(t) / p_sampler(t), cap)
              + kl · k3(t)
    loss    = Σ_s w_s · (Σ of loss_t over segment s, normalised by segment s's counts in the optimiser step)

The first factor is PPO's surrogate (Schulman et al. 2017, equation 7) with separate bounds (DAPO, Yu et al.
2025); the second corrects for the difference between rollout engine and trainer, truncated and without
gradient (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"); k3 is
Schulman's estimate of KL(new ‖ reference) from one sample (2020, "Approximating KL divergence").

A segment's loss is divided by counts of that segment alone, and an advantage comes from rewards of its group
alone: a segment's reward never reaches the other segment's gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from mirl_core.training.rl.planners.rows import Segment, TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig

SEGMENTS: tuple[Segment, ...] = get_args(Segment)


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Every token's loss and its terms; all (B, T), and neutral where the mask is off."""

    loss: Tensor
    """The minimised quantity, before normalisation; 0 where the mask is off."""
    ratio: Tensor
    """p_new / p_old; carries the gradient; 1 where the mask is off."""
    weight: Tensor
    """Truncated p_old / p_sampler, without gradient; 1 where there is no correction."""
    kl: Tensor
    """k3 estimate of KL(new ‖ reference); 0 without a reference; nats."""
    mismatch: Tensor
    """log p_old − log p_sampler, without gradient; 0 where the mask is off; nats."""
    capped: Tensor
    """Whether the weight reached its cap."""
    clipped_low: Tensor
    """Whether the lower bound stopped the gradient."""
    clipped_high: Tensor
    """Whether the upper bound stopped the gradient."""


def token_losses(
    new: Tensor,
    old: Tensor,
    sampler: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    settings: OptimizerConfig,
) -> TokenLosses:
    """Compute each token's loss, not yet normalised.

    Args:
        new: (B, T) log p of each token under the weights in training; carries the gradient; nats.
        old: (B, T) log p under the weights before the first update on this batch; nats. `new.detach()` where
            this is the first update.
        sampler: (B, T) log p as the rollout engine sampled it; nats.
        reference: (B, T) log p under the frozen start; nats. Required where `settings.kl` is above 0.
        advantages: (B,) of each row.
        mask: (B, T) bool: the tokens in the loss. Values elsewhere are never used, infinities and NaN
            included.
        settings: clip bounds, KL weight and importance cap.
    """
    if settings.kl and reference is None:
        raise ValueError("the KL term needs the reference's log-probabilities")
    advantage = advantages.unsqueeze(1)
    # Selected before exp: 0 · NaN of a masked token would poison the sum, and its gradient too.
    ratio = torch.exp(_where(mask, new - old.detach()))
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    mismatch = _where(mask, old - sampler).detach()
    weight, capped = torch.ones_like(mismatch), torch.zeros_like(mask)
    if settings.importance_cap is not None:
        weight, capped = mismatch.exp(), mismatch.exp() > settings.importance_cap
        weight = weight.clamp(max=settings.importance_cap)
    loss = -surrogate * weight
    kl = torch.zeros_like(ratio)
    if reference is not None:
        gap = _where(mask, reference.detach() - new)
        kl = torch.expm1(gap) - gap
        if settings.kl:
            loss = loss + settings.kl * kl
    return TokenLosses(
        loss=_where(mask, loss),
        ratio=ratio,
        weight=weight,
        kl=kl,
        mismatch=mismatch,
        capped=capped,
        clipped_low=mask & (ratio < low) & (advantage < 0),
        clipped_high=mask & (ratio > high) & (advantage > 0),
    )


@dataclass(frozen=True, slots=True)
class Normalizers:
    """The number of trained tokens and rows of a whole optimiser step, by segment in the order of `SEGMENTS`.

    Counted over all ranks and all forward passes of the step, so that neither ranks nor accumulation change
    the loss: sum each rank's `counts` (all-reduce), then `from_counts`. Only trained rows count; a group with
    equal rewards makes no rows (as DAPO filters it).
    """

    tokens: tuple[int, ...] = (0,) * len(SEGMENTS)
    rows: tuple[int, ...] = (0,) * len(SEGMENTS)

    @classmethod
    def of(cls, rows: Iterable[TrainingRow]) -> Normalizers:
        """Count some rows; rows without a trained token don't count."""
        tokens, numbers = dict.fromkeys(SEGMENTS, 0), dict.fromkeys(SEGMENTS, 0)
        for row in rows:
            tokens[row.segment] += row.trained_tokens
            numbers[row.segment] += row.trained_tokens > 0
        return cls(tuple(tokens.values()), tuple(numbers.values()))

    @property
    def counts(self) -> tuple[int, ...]:
        """All counts in one sequence, to be summed over ranks."""
        return (*self.tokens, *self.rows)

    @classmethod
    def from_counts(cls, counts: Sequence[float]) -> Normalizers:
        """Return the normalizers of `counts`."""
        whole = [round(count) for count in counts]
        return cls(tuple(whole[: len(SEGMENTS)]), tuple(whole[len(SEGMENTS) :]))

    def factors(
        self, rows: Sequence[TrainingRow], settings: OptimizerConfig, max_tokens: int
    ) -> tuple[float, ...]:
        """Return the factor by which the sum of each row's token losses is multiplied.

        token     w_s / T_s: every token of the segment weighs the same (DAPO)
        sequence  w_s / (R_s · tokens of the row): every row weighs the same (GRPO)
        constant  w_s / (R_s · max_tokens): independent of the sampled lengths (Dr. GRPO)

        Args:
            rows: of one forward pass; they must have been counted.
            settings: `normalization` and the segments' weights.
            max_tokens: longest trajectory, `rollout.max_tokens`; for `constant`.
        """
        return tuple(self._factor(row, settings, max_tokens) for row in rows)

    def _factor(self, row: TrainingRow, settings: OptimizerConfig, max_tokens: int) -> float:
        if not row.trained_tokens:
            return 0.0
        described = row.segment == "description"
        weight = settings.description_weight if described else settings.reasoning_weight
        index = SEGMENTS.index(row.segment)
        match settings.normalization:
            case "token":
                return weight / self.tokens[index]
            case "sequence":
                return weight / (self.rows[index] * row.trained_tokens)
            case "constant":
                return weight / (self.rows[index] * max_tokens)


def normalized_loss(losses: Tensor, factors: Tensor) -> Tensor:
    """Return the loss of one forward pass: its share of the step's loss, so that shares are summed, never
    averaged.

    A caller that averages gradients over ranks, as DDP and FSDP do, must multiply by the number of ranks.

    Args:
        losses: (B, T) `TokenLosses.loss`.
        factors: (B,) `Normalizers.factors` of the same rows.
    """
    return (losses.sum(dim=1) * factors).sum()


MEANS = (
    "ratio/mean", "clip/low", "clip/high", "kl", "mismatch/mean", "mismatch/kl", "importance/mean",
    "importance/capped", "entropy",
)  # fmt: skip
MAXIMA = ("ratio/max", "mismatch/max")


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """The distance of the policy from the sampler of the tokens, by segment.

    Add the diagnostics of a step's forward passes (`+`); over ranks, reduce `sums` by sum and `maxima` by
    maximum.
    """

    sums: Tensor
    """(segments, 1 + len(MEANS)) float64: trained tokens, then the sum of each measure over them."""
    maxima: Tensor
    """(segments, len(MAXIMA)) float64."""

    def __add__(self, other: Diagnostics) -> Diagnostics:
        return Diagnostics(self.sums + other.sums, torch.maximum(self.maxima, other.maxima))

    def metrics(self) -> dict[str, float]:
        """Return means and maxima over all trained tokens, and for each segment as `NAME/SEGMENT`.

        ratio       p_new / p_old
        clip        share of tokens whose gradient a clip bound stopped
        kl          k3 estimate of KL(new ‖ reference); nats
        mismatch    |log p_old − log p_sampler|, and the k3 estimate of KL(sampler ‖ old); nats
        importance  truncated p_old / p_sampler, and the share of tokens that were truncated
        entropy     −log p_new of the sampled tokens: an estimate of the policy's entropy; nats
        """
        metrics = self._named(self.sums.sum(dim=0), self.maxima.amax(dim=0), "")
        for index, segment in enumerate(SEGMENTS):
            metrics |= self._named(self.sums[index], self.maxima[index], f"/{segment}")
        return metrics

    def _named(self, sums: Tensor, maxima: Tensor, suffix: str) -> dict[str, float]:
        tokens, *totals = sums.tolist()
        if not tokens:
            return {}
        means = [total / tokens for total in totals]
        return {
            f"{name}{suffix}": value
            for name, value in zip((*MEANS, *MAXIMA), (*means, *maxima.tolist()), strict=True)
        }


@torch.no_grad()
def diagnose(losses: TokenLosses, new: Tensor, mask: Tensor, rows: Sequence[TrainingRow]) -> Diagnostics:
    """Compute the diagnostics of one forward pass.

    Args:
        losses: of these rows.
        new: (B, T) log p of each token under the weights in training; nats.
        mask: (B, T) bool: the tokens in the loss.
        rows: (B,) at least one row; they give the segments.
    """
    distance = losses.mismatch.abs()
    measures = (
        losses.ratio, losses.clipped_low, losses.clipped_high, losses.kl, distance,
        torch.expm1(losses.mismatch) - losses.mismatch, losses.weight, losses.capped, -new,
    )  # fmt: skip
    sums, maxima = [], []
    for segment in SEGMENTS:
        in_segment = torch.tensor([row.segment == segment for row in rows], device=mask.device)
        selected = mask & in_segment.unsqueeze(1)
        sums.append(torch.stack([_where(selected, measure.double()).sum() for measure in (mask, *measures)]))
        maxima.append(
            torch.stack([_where(selected, measure.double()).amax() for measure in (losses.ratio, distance)])
        )
    return Diagnostics(torch.stack(sums), torch.stack(maxima))


def _where(mask: Tensor, values: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values))
