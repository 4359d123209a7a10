"""Gates: which descriptions go on to reasoning.

Guarantees: a description that comes in with a `reason` (truncated, empty, unparsable) is never scored and
never kept; every description comes out once, in its original order, either kept or with a reason; at most
`Gate.most_kept` are kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from mirl_core.config import GateName, MIRLOptions
from mirl_core.types import Description

__all__ = [
    "GATES",
    "ConfidenceGate",
    "Gate",
    "MIGate",
    "NoGate",
    "RandomGate",
    "in_waves",
    "mass_prefix",
    "select",
]


class Gate(Protocol):
    """A ranking of one request's usable descriptions; the highest scores are kept."""

    needs_marginal: ClassVar[bool] = False
    """Whether the image-free term must have been scored."""
    uses_keep: ClassVar[bool] = True
    """Whether the options `keep` and `adaptive_keep` apply; else every usable description is kept."""
    in_nats: ClassVar[bool] = True
    """Whether scores are nats (per content token under `normalize="token"`); else they have no unit."""

    def score_words(self, options: MIRLOptions) -> str:
        """Return what a description's score is, in words, without its unit; empty where all scores are 0."""
        ...

    def most_kept(self, options: MIRLOptions) -> int:
        """Return how many descriptions it may keep at most."""
        return min(options.keep, options.descriptions) if self.uses_keep else options.descriptions

    def rank(
        self, descriptions: Sequence[Description], options: MIRLOptions, rng: random.Random
    ) -> Sequence[float]:
        """Return one score per description, in the order of `descriptions`; higher is better."""
        ...


@dataclass(frozen=True, slots=True)
class MIGate(Gate):
    """Ranks by mutual information, what the image adds to the description; nats (per content token)."""

    needs_marginal: ClassVar[bool] = True

    def score_words(self, options: MIRLOptions) -> str:
        weight = options.mi_weight
        return f"MI, λ = {weight if isinstance(weight, str) else format(weight, 'g')}"

    def rank(
        self, descriptions: Sequence[Description], options: MIRLOptions, rng: random.Random
    ) -> list[float]:
        """Return the MI of each description.

        Raises:
            ValueError: a description has no MI.
        """
        return [_normalized(_mi(description), description, options) for description in descriptions]


@dataclass(frozen=True, slots=True)
class ConfidenceGate(Gate):
    """Ranks by the model's own log-probability given the image (λ = 0); nats (per content token)."""

    def score_words(self, options: MIRLOptions) -> str:
        return "confidence"

    def rank(
        self, descriptions: Sequence[Description], options: MIRLOptions, rng: random.Random
    ) -> list[float]:
        return [_normalized(description.logprob, description, options) for description in descriptions]


@dataclass(frozen=True, slots=True)
class RandomGate(Gate):
    """Ranks at random: the control that shows what ranking is worth. Scores have no unit."""

    in_nats: ClassVar[bool] = False

    def score_words(self, options: MIRLOptions) -> str:
        return "random"

    def rank(
        self, descriptions: Sequence[Description], options: MIRLOptions, rng: random.Random
    ) -> list[float]:
        return [rng.random() for _ in descriptions]


@dataclass(frozen=True, slots=True)
class NoGate(Gate):
    """Keeps every usable description: self-consistency. All scores are 0, so that nothing is ranked."""

    uses_keep: ClassVar[bool] = False

    def score_words(self, options: MIRLOptions) -> str:
        return ""

    def rank(
        self, descriptions: Sequence[Description], options: MIRLOptions, rng: random.Random
    ) -> list[float]:
        return [0.0] * len(descriptions)


GATES: dict[GateName, Gate] = {
    "mi": MIGate(),
    "confidence": ConfidenceGate(),
    "random": RandomGate(),
    "none": NoGate(),
}


def select(
    descriptions: Sequence[Description], options: MIRLOptions, seed: int | None
) -> tuple[Description, ...]:
    """Return the descriptions in their order, each with `score`, `kept` and `reason` filled in.

    They are ranked by score, ties by position. With `distinct`, the first of identical descriptions (by
    content token ids) represents all; the others are dropped as `duplicate` and get no score.

    Args:
        seed: of the random gate.
    """
    gate = GATES[options.gate]
    selected = [replace(description, score=None, kept=False) for description in descriptions]
    usable = [index for index, description in enumerate(selected) if description.reason is None]
    if options.distinct:
        first: dict[tuple[int, ...], int] = {}
        for index in usable:
            first.setdefault(selected[index].token_ids[: selected[index].content_tokens], index)
        for index in set(usable) - set(first.values()):
            selected[index] = replace(selected[index], reason="duplicate")
        usable = list(first.values())
    ranking = gate.rank([selected[index] for index in usable], options, random.Random(seed))
    scores = dict(zip(usable, ranking, strict=True))
    ranked = sorted(usable, key=lambda index: (-scores[index], index))
    count = _kept_count(gate, [scores[index] for index in ranked], options)
    for rank, index in enumerate(ranked):
        kept = rank < count
        selected[index] = replace(
            selected[index], score=scores[index], kept=kept, reason=None if kept else "gate"
        )
    return tuple(selected)


def in_waves(scores: Mapping[int, float | None], forks: int, first: int) -> list[list[tuple[int, int]]]:
    """Return (description, fork) of the chains of each wave: `first` of them, then all the others.

    Every description's first fork comes by rank, then every second one, and so on. More waves would not spare
    a token, for a certain vote ends a wave; each would add the time of a chain.

    Args:
        scores: gate score of each kept description, by its index.
        forks: chains of each.
        first: chains of the first wave, at least 1.
    """
    ranked = sorted(scores, key=lambda index: (-(scores[index] or 0.0), index))
    order = [(index, fork) for fork in range(forks) for index in ranked]
    return [wave for wave in (order[:first], order[first:]) if wave]


def mass_prefix(ranked_scores: Sequence[float], mass: float) -> int:
    """Return the length of the smallest prefix that holds at least `mass` of softmax(scores).

    With the plain sum of MI as score, softmax weighs a description by p(d|I) / p(d); per-token scores lie
    closer together, so the same mass keeps more descriptions.

    Args:
        ranked_scores: in descending order.
        mass: above 0, at most 1.
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


def _kept_count(gate: Gate, ranked_scores: Sequence[float], options: MIRLOptions) -> int:
    if not gate.uses_keep:
        return len(ranked_scores)
    count = min(options.keep, len(ranked_scores))
    if options.adaptive_keep is None:
        return count
    return min(count, mass_prefix(ranked_scores, options.adaptive_keep))


def _mi(description: Description) -> float:
    if description.mi is None:
        raise ValueError(f"description {description.index} was not scored")
    return description.mi


def _normalized(nats: float, description: Description, options: MIRLOptions) -> float:
    return nats if options.normalize == "sum" else nats / max(description.content_tokens, 1)
