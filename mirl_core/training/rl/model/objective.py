"""Clipped policy gradient by segment, as pure functions of tensors.

    ratio_t = p_new(t) / p_old(t)
    loss_t  = −min(ratio_t · A, clip(ratio_t, 1 − low, 1 + high) · A) · min(p_old(t) / p_sampler(t), cap)
              + kl · k3(t)
    loss    = Σ_s w_s · (Σ of loss_t over segment s, normalised by what segment s has in the optimiser step)

The first factor is PPO's surrogate (Schulman et al. 2017, equation 7) with separate bounds (DAPO, Yu et al.
2025); the second corrects for the difference between rollout engine and trainer, truncated and without
gradient (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"); k3 is
Schulman's estimate of KL(new ‖ reference) from one sample (2020, "Approximating KL divergence").

A segment's loss is divided by counts of that segment alone, and an advantage comes from rewards of its own
group alone: what one segment is rewarded by never reaches the other's gradient.
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
    """Every token's loss with what it was made of; all (B, T), and neutral where the mask is off."""

    loss: Tensor
    """What is minimised, before normalisation; 0 where the mask is off."""
    ratio: Tensor
    """p_new / p_old; carries the gradient; 1 where the mask is off."""
    weight: Tensor
    """Truncated p_old / p_sampler, without gradient; 1 where there is no correction."""
    kl: Tensor
    """k3 estimate of KL(new ‖ reference); 0 without a reference; nats."""
    mismatch: Tensor
    """log p_old − log p_sampler, without gradient; 0 where the mask is off; nats."""
    capped: Tensor
    """Whether the cap of the weight was reached."""
    clipped_low: Tensor
    """Whether the lower bound stopped the gradient."""
    clipped_high: Tensor
    """Whether the upper bound did."""


def token_losses(
    new: Tensor,
    old: Tensor,
    sampler: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    settings: OptimizerConfig,
) -> TokenLosses:
    """Each token's loss, not yet normalised.

    Args:
        new: (B, T) log p of each token under the weights in training; carries the gradient; nats.
        old: (B, T) log p under the weights before the first update on this batch; nats. `new.detach()` where
            there was none.
        sampler: (B, T) log p as the rollout engine sampled it; nats.
        reference: (B, T) log p under the frozen start; nats. Needed where `settings.kl` is above 0.
        advantages: (B,) of each row.
        mask: (B, T) bool: the tokens in the loss. What stands elsewhere is never looked at, infinities and
            NaN included.
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
    """What one whole optimiser step trains on, by segment in the order of `SEGMENTS`.

    Counted over all ranks and all forward passes of the step, so that neither ranks nor accumulation change
    the loss: add up what each rank has (`counts`, all-reduced, `from_counts`). Only rows that are trained on
    count; a group whose rewards are all equal makes no rows (as DAPO filters it).
    """

    tokens: tuple[int, ...] = (0,) * len(SEGMENTS)
    rows: tuple[int, ...] = (0,) * len(SEGMENTS)

    @classmethod
    def of(cls, rows: Iterable[TrainingRow]) -> Normalizers:
        """The counts of some rows. Rows without a trained token don't count."""
        tokens, numbers = dict.fromkeys(SEGMENTS, 0), dict.fromkeys(SEGMENTS, 0)
        for row in rows:
            tokens[row.segment] += row.trained_tokens
            numbers[row.segment] += row.trained_tokens > 0
        return cls(tuple(tokens.values()), tuple(numbers.values()))

    @property
    def counts(self) -> tuple[int, ...]:
        """All counts in one line, to be summed over ranks."""
        return (*self.tokens, *self.rows)

    @classmethod
    def from_counts(cls, counts: Sequence[float]) -> Normalizers:
        """The reverse of `counts`."""
        whole = [round(count) for count in counts]
        return cls(tuple(whole[: len(SEGMENTS)]), tuple(whole[len(SEGMENTS) :]))

    def factors(
        self, rows: Sequence[TrainingRow], settings: OptimizerConfig, max_tokens: int
    ) -> tuple[float, ...]:
        """What the sum of each row's token losses is multiplied by.

        token     w_s / T_s: every token of the segment weighs the same (DAPO)
        sequence  w_s / (R_s · tokens of the row): every row weighs the same (GRPO)
        constant  w_s / (R_s · max_tokens): nothing depends on what was sampled (Dr. GRPO)

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
        place = SEGMENTS.index(row.segment)
        match settings.normalization:
            case "token":
                return weight / self.tokens[place]
            case "sequence":
                return weight / (self.rows[place] * row.trained_tokens)
            case "constant":
                return weight / (self.rows[place] * max_tokens)


def normalized_loss(losses: Tensor, factors: Tensor) -> Tensor:
    """The loss of one forward pass: its share of the step's, so that shares are added, never averaged.

    Whoever averages gradients over ranks, as DDP and FSDP do, must multiply by their number.

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
    """How far the policy is from what sampled the tokens, by segment.

    Add those of a step's forward passes (`+`); over ranks, `sums` by sum and `maxima` by maximum.
    """

    sums: Tensor
    """(segments, 1 + len(MEANS)) float64: trained tokens, then the sum of each measure over them."""
    maxima: Tensor
    """(segments, len(MAXIMA)) float64."""

    def __add__(self, other: Diagnostics) -> Diagnostics:
        return Diagnostics(self.sums + other.sums, torch.maximum(self.maxima, other.maxima))

    def metrics(self) -> dict[str, float]:
        """Means and maxima over all trained tokens, and for each segment as `NAME/SEGMENT`.

        ratio       p_new / p_old
        clip        share of tokens whose gradient a clip bound stopped
        kl          k3 estimate of KL(new ‖ reference); nats
        mismatch    |log p_old − log p_sampler|, and the k3 estimate of KL(sampler ‖ old); nats
        importance  truncated p_old / p_sampler, and the share of tokens that were truncated
        entropy     −log p_new of the sampled tokens: an estimate of the policy's entropy; nats
        """
        found = self._named(self.sums.sum(dim=0), self.maxima.amax(dim=0), "")
        for place, segment in enumerate(SEGMENTS):
            found |= self._named(self.sums[place], self.maxima[place], f"/{segment}")
        return found

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
    """The diagnostics of one forward pass.

    Args:
        losses: of these rows.
        new: (B, T) log p of each token under the weights in training; nats.
        mask: (B, T) bool: the tokens in the loss.
        rows: (B,) at least one, for their segments.
    """
    distance = losses.mismatch.abs()
    measures = (
        losses.ratio, losses.clipped_low, losses.clipped_high, losses.kl, distance,
        torch.expm1(losses.mismatch) - losses.mismatch, losses.weight, losses.capped, -new,
    )  # fmt: skip
    sums, maxima = [], []
    for segment in SEGMENTS:
        belongs = torch.tensor([row.segment == segment for row in rows], device=mask.device)
        chosen = mask & belongs.unsqueeze(1)
        sums.append(torch.stack([_where(chosen, one.double()).sum() for one in (mask, *measures)]))
        maxima.append(torch.stack([_where(chosen, one.double()).amax() for one in (losses.ratio, distance)]))
    return Diagnostics(torch.stack(sums), torch.stack(maxima))


def _where(mask: Tensor, values: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values))
