"""Rules that choose λ, the weight of the image-free term, without labels, for one request at a time.

Why there is a choice: with evidence p(I | d), a model trained where descriptions follow p(d) gives
p(d | I) ∝ p(I | d) p(d). Deployed where they follow p'(d), the right ranking is by

    log p(I | d) + log p'(d) = log p(d | I) − log p(d) + log p'(d) + const,

so λ = 0 (confidence) where p' = p, λ = 1 (mutual information) where p' is uniform, λ > 1 where usual
descriptions became rare; in between and beyond, λ is exact for p'(d) ∝ p(d)^(1−λ). `traffic.py` estimates
that from many requests; the rules here have only the N descriptions of one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mirl_core.algorithm.mi.scoring import resolve_weight
from mirl_core.config import MIRLOptions
from mirl_core.evaluation.methods.gated import sums_of_token_mi

__all__ = ["GRID", "REQUEST_RULES", "Rule", "ScoredDescription", "fixed_weight"]

Array = NDArray[np.float64]
GRID = tuple(step / 10 for step in range(21))
"""Candidate weights, 0 to 2."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredDescription:
    """One usable description of a request, scored."""

    text: str
    logprobs: Array
    """(T,) log p(d_t | d_<t, I, q); nats."""
    marginal: Array
    """(T,) log p(d_t | d_<t, q); nats."""
    question: str = ""
    """The question's text: each question has one prior p(d | q)."""

    @property
    def terms(self) -> tuple[list[float], list[float]]:
        """`logprobs` and `marginal`."""
        return self.logprobs.tolist(), self.marginal.tolist()


class Rule(Protocol):
    """A rule: (N,) ranking scores of one request's descriptions, in the gate's unit (nats, per token or
    summed)."""

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array: ...


def fixed_weight(sampled: Sequence[ScoredDescription], weight: float, options: MIRLOptions) -> Array:
    """Return the scores of the gate `mi` at λ = `weight`: (N,)."""
    mi = sums_of_token_mi(
        [(description.logprobs, description.marginal) for description in sampled], weight, options.clip
    )
    return np.array(
        [value / _length(description, options) for value, description in zip(mi, sampled, strict=True)]
    )


@dataclass(frozen=True, slots=True)
class InformationShare:
    """`information`: λ = 1 − Σ log p(d | I) / Σ log p(d), over the tokens of all N; within 0 and 1.

    The product's `mi_weight: "auto"`; see `mirl_core.algorithm.mi.pointwise.information_share`.
    """

    def weight(self, sampled: Sequence[ScoredDescription]) -> float:
        return resolve_weight("auto", [description.terms for description in sampled])

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array:
        return fixed_weight(sampled, self.weight(sampled), options)


@dataclass(frozen=True, slots=True)
class Conflict:
    """`conflict`: λ = (1 − ρ) / 2, ρ the correlation of evidence and prior over the N samples.

    Evidence is log p(d | I) − log p(d), which is log p(I | d) up to a constant, prior log p(d), each in the
    gate's unit. Where the image argues for the usual description (ρ = 1) the prior is right for this request;
    where it argues against it (ρ = −1), prior and image disagree and the rule trusts the image: the idea of a
    check for prior–data conflict (Evans and Moshonov 2006). Sampling makes the two look opposed (a sampled
    description has high evidence or a high prior), so the rule leans towards λ = 1.
    """

    def weight(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> float:
        prior = np.array(
            [float(description.marginal.sum()) / _length(description, options) for description in sampled]
        )
        evidence = fixed_weight(sampled, 1.0, options)
        spread = float(prior.std() * evidence.std())
        if not np.isfinite(spread) or spread < 1e-9:
            return resolve_weight(options.mi_weight, [description.terms for description in sampled])
        covariance = float(((prior - prior.mean()) * (evidence - evidence.mean())).mean())
        return float(np.clip((1 - covariance / spread) / 2, 0, 1))

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array:
        return fixed_weight(sampled, self.weight(sampled, options), options)


@dataclass(frozen=True, slots=True)
class Stable:
    """`stable`: the middle of the longest stretch of λ in `GRID` over which the first choice stays the same.

    A choice that is independent of λ needs no λ. Otherwise the choice that survives most of the plausible
    range is the most robust (the persistence argument of stability selection, Meinshausen and Bühlmann 2010).
    Ties go to the stretch with the smaller λ.
    """

    def weight(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> float:
        table = np.array([fixed_weight(sampled, weight, options) for weight in GRID])
        firsts = [sampled[int(index)].text for index in table.argmax(axis=1)]
        best, start = (0, 0), 0
        for end in range(1, len(GRID) + 1):
            if end == len(GRID) or firsts[end] != firsts[start]:
                if end - start > best[1] - best[0]:
                    best = (start, end)
                start = end
        return GRID[(best[0] + best[1] - 1) // 2]

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array:
        return fixed_weight(sampled, self.weight(sampled, options), options)


@dataclass(frozen=True, slots=True)
class Average:
    """`average`: the log of a description's mean softmax weight over λ from 0 to 1, instead of a single λ.

    Bayesian model averaging over the unknown deployment prior (uniform over the family p^(1−λ)). The softmax
    is over whole descriptions, so per-token scores count times the mean length.
    """

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array:
        length = (
            1.0
            if options.normalize == "sum"
            else float(np.mean([len(description.logprobs) for description in sampled]))
        )
        table = length * np.array([fixed_weight(sampled, weight, options) for weight in GRID if weight <= 1])
        shares = table - np.logaddexp.reduce(table, axis=1, keepdims=True)
        means = np.logaddexp.reduce(shares, axis=0) - np.log(len(table))
        averaged: Array = means / length
        return averaged


REQUEST_RULES: dict[str, type[InformationShare] | type[Conflict] | type[Stable] | type[Average]] = {
    "information": InformationShare,
    "conflict": Conflict,
    "stable": Stable,
    "average": Average,
}


def _length(description: ScoredDescription, options: MIRLOptions) -> int:
    return max(len(description.logprobs), 1) if options.normalize == "token" else 1
