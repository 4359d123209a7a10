"""Gates: which descriptions go on to reasoning.

Guarantees: a description that came in with a `reason` (truncated, empty, unparsable) is never scored and
never kept; every description comes out once, in the order in which it came, either kept or with a reason;
at most `keep` are kept, except by the gate `none`, which keeps every usable one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mirl_core.config import GateName, MIRLOptions
from mirl_core.types import Description

__all__ = ["GATES", "ConfidenceGate", "Gate", "MIGate", "NoGate", "RandomGate", "mass_prefix", "select"]


class Gate(Protocol):
    """Scores one description; the highest scores are kept."""

    @property
    def needs_marginal(self) -> bool:
        """Whether the image-free term must have been scored."""
        ...

    def score(self, description: Description, options: MIRLOptions, rng: random.Random) -> float: ...


@dataclass(frozen=True, slots=True)
class MIGate:
    """By mutual information, what the image adds to the description; nats (per content token)."""

    needs_marginal: bool = True

    def score(self, description: Description, options: MIRLOptions, rng: random.Random) -> float:
        if description.mi is None:
            raise ValueError(f"description {description.index} was not scored")
        return _normalized(description.mi, description, options)


@dataclass(frozen=True, slots=True)
class ConfidenceGate:
    """By the model's own log-probability given the image (λ = 0); nats (per content token)."""

    needs_marginal: bool = False

    def score(self, description: Description, options: MIRLOptions, rng: random.Random) -> float:
        return _normalized(description.logprob, description, options)


@dataclass(frozen=True, slots=True)
class RandomGate:
    """By lot: the control that shows what ranking is worth. No unit."""

    needs_marginal: bool = False

    def score(self, description: Description, options: MIRLOptions, rng: random.Random) -> float:
        return rng.random()


@dataclass(frozen=True, slots=True)
class NoGate:
    """Every usable description goes on: self-consistency. All scores are 0, so that no ranking slips in."""

    needs_marginal: bool = False

    def score(self, description: Description, options: MIRLOptions, rng: random.Random) -> float:
        return 0.0


GATES: dict[GateName, Gate] = {
    "mi": MIGate(),
    "confidence": ConfidenceGate(),
    "random": RandomGate(),
    "none": NoGate(),
}


def select(
    descriptions: Sequence[Description], options: MIRLOptions, seed: int | None
) -> tuple[Description, ...]:
    """The descriptions in their order, each with `score`, `kept` and `reason` filled in.

    Ranked by score, ties by place. With `distinct`, the first of identical descriptions (by content token
    ids) stands for all; the others are dropped as `duplicate` and get no score. `seed` is the random gate's.
    """
    gate = GATES[options.gate]
    rng = random.Random(seed)
    decided = [replace(description, score=None, kept=False) for description in descriptions]
    usable = [place for place, description in enumerate(decided) if description.reason is None]
    if options.distinct:
        first: dict[tuple[int, ...], int] = {}
        for place in usable:
            first.setdefault(decided[place].token_ids[: decided[place].content_tokens], place)
        for place in set(usable) - set(first.values()):
            decided[place] = replace(decided[place], reason="duplicate")
        usable = list(first.values())
    scores = {place: gate.score(decided[place], options, rng) for place in usable}
    ranked = sorted(usable, key=lambda place: (-scores[place], place))
    if options.gate == "none":
        count = len(ranked)
    else:
        count = min(options.keep, len(ranked))
        if options.adaptive_keep is not None:
            count = min(count, mass_prefix([scores[place] for place in ranked], options.adaptive_keep))
    for rank, place in enumerate(ranked):
        kept = rank < count
        decided[place] = replace(
            decided[place], score=scores[place], kept=kept, reason=None if kept else "gate"
        )
    return tuple(decided)


def mass_prefix(ranked_scores: Sequence[float], mass: float) -> int:
    """Length of the smallest prefix that holds at least `mass` of softmax(scores); scores descending.

    With the plain sum of MI as score, softmax weighs a description by p(d|I) / p(d); per-token scores lie
    closer together, so the same mass keeps more descriptions.
    """
    if not ranked_scores:
        return 0
    top = ranked_scores[0]
    # An infinite top would make inf − inf; equal to the top is weight 1 in every case.
    weights = [1.0 if score == top else math.exp(score - top) for score in ranked_scores]
    target = mass * math.fsum(weights)
    held = 0.0
    for length, weight in enumerate(weights, start=1):
        held += weight
        # A sum that misses its own total by rounding must not cost a fork more (or, at mass 1, all of them).
        if held >= target * (1 - 1e-12):
            return length
    return len(weights)


def _normalized(nats: float, description: Description, options: MIRLOptions) -> float:
    return nats if options.normalize == "sum" else nats / max(description.content_tokens, 1)
