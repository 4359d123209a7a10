"""Aggregators: the rules by which answered chains become one answer.

Chains are ranked by their description's gate score, then by the lower (description, fork): a strict order,
so that every tie has a defined winner. The representative is the winning answer's first chain in that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from mirl_core.algorithm import answers
from mirl_core.types import Chain, Vote

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Best",
    "MIWeighted",
    "Majority",
    "Outcome",
    "Pending",
    "ResolvedAggregation",
]

ResolvedAggregation = Literal["majority", "mi_weighted", "best"]
# Sums of softmax weights differ in their last bits with the order of addition: closer than this is a tie.
TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Pending:
    """A chain that is still running."""

    description: int | None
    fork: int
    score: float | None = None
    """Its description's gate score."""
    votes: int = 1
    """Votes that its answer will have."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The winner among the chains so far."""

    representative: Chain
    vote: Vote | None
    """None for `best`, which doesn't vote."""
    confidence: float | None
    """The winner's share of the vote, 0 to 1."""
    aggregation: ResolvedAggregation


Weigh = Callable[[Chain | Pending], float]


class Aggregator(Protocol):
    """An aggregation rule. `answered` are the chains that vote, at least one."""

    ranks: ClassVar[bool]
    """Whether the scores of descriptions decide."""
    votes: ClassVar[bool]
    """Whether chains vote, so that more of them may change the winner."""
    equal_votes: ClassVar[bool]
    """Whether they vote, and every vote weighs the same."""

    def outcome(self, answered: Sequence[Chain], chains: Sequence[Chain]) -> Outcome:
        """Return the winner; `chains` are all chains, those without an answer included."""
        ...

    def settled(self, answered: Sequence[Chain], outstanding: Sequence[Pending]) -> bool:
        """Return whether no result of the outstanding chains can change the winning answer."""
        ...


@dataclass(frozen=True, slots=True)
class Majority:
    """Most votes win; a tie goes to the answer with the best-scored description."""

    ranks: ClassVar[bool] = False
    votes: ClassVar[bool] = True
    equal_votes: ClassVar[bool] = True

    def weigh(self, chains: Iterable[Chain | Pending]) -> Weigh:
        """Return the function from one of `chains` to its weight."""
        return lambda chain: float(chain.votes)

    @property
    def name(self) -> ResolvedAggregation:
        return "majority"

    def outcome(self, answered: Sequence[Chain], chains: Sequence[Chain]) -> Outcome:
        weigh = self.weigh(chains)
        groups = _groups(answered)
        totals = [_total(group, weigh) for group in groups]
        winner = _winner(groups, totals)
        counts: dict[str, float] = {}
        for group, total in zip(groups, totals, strict=True):
            key = _name(group)
            counts[key] = counts.get(key, 0.0) + total
        whole = math.fsum(totals)
        share = totals[winner] / whole if whole else 1 / len(groups)
        vote = Vote(_name(groups[winner]), counts, share)
        return Outcome(min(groups[winner], key=_rank), vote, share, self.name)

    def settled(self, answered: Sequence[Chain], outstanding: Sequence[Pending]) -> bool:
        """Decide by the worst case: all outstanding chains join one rival, or form a new one together."""
        weigh = self.weigh([*answered, *outstanding])
        groups = _groups(answered)
        totals = [_total(group, weigh) for group in groups]
        winner = _winner(groups, totals)
        coming = _total(outstanding, weigh)
        first = _rank(min(groups[winner], key=_rank))
        # A rival with nothing outstanding to gain stays what it is: beaten.
        rivals: list[tuple[float, Sequence[Chain | Pending]]] = [(0.0, [])]
        rivals += [
            (total, group)
            for index, (total, group) in enumerate(zip(totals, groups, strict=True))
            if index != winner
        ]
        for total, group in rivals:
            if total + coming < totals[winner] * (1 - 2 * TIE):
                continue
            if total + coming > totals[winner] * (1 + TIE / 2):
                return False
            if min(map(_rank, [*group, *outstanding])) < first:
                return False
        return True


@dataclass(frozen=True, slots=True)
class MIWeighted(Majority):
    """Most weight wins: a chain weighs softmax(score) of its description over the descriptions with chains.

    A missing score counts as 0, so without any scores all weigh the same. Scores are the gate's, so under
    the default `normalize="token"` the weights differ gently, by the per-token MI. Votes don't count.
    """

    ranks: ClassVar[bool] = True
    equal_votes: ClassVar[bool] = False

    @property
    def name(self) -> ResolvedAggregation:
        return "mi_weighted"

    def weigh(self, chains: Iterable[Chain | Pending]) -> Weigh:
        scores = {chain.description: _score(chain, missing=0.0) for chain in chains}
        top = max(scores.values())
        masses = {index: 1.0 if score == top else math.exp(score - top) for index, score in scores.items()}
        whole = math.fsum(masses.values())
        return lambda chain: masses[chain.description] / whole


@dataclass(frozen=True, slots=True)
class Best:
    """No vote: the answer of the best-scored description's first chain that has one."""

    ranks: ClassVar[bool] = True
    votes: ClassVar[bool] = False
    equal_votes: ClassVar[bool] = False

    def outcome(self, answered: Sequence[Chain], chains: Sequence[Chain]) -> Outcome:
        return Outcome(min(answered, key=_rank), None, None, "best")

    def settled(self, answered: Sequence[Chain], outstanding: Sequence[Pending]) -> bool:
        first = min(map(_rank, answered))
        return all(first < _rank(chain) for chain in outstanding)


AGGREGATORS: dict[ResolvedAggregation, Aggregator] = {
    "majority": Majority(),
    "mi_weighted": MIWeighted(),
    "best": Best(),
}


def _groups(answered: Sequence[Chain]) -> list[list[Chain]]:
    """Return the chains by their answer."""
    groups = answers.group([chain.answer or "" for chain in answered])
    return [[answered[index] for index in group] for group in groups]


def _total(chains: Sequence[Chain | Pending], weigh: Weigh) -> float:
    return math.fsum(map(weigh, chains))


def _winner(groups: Sequence[Sequence[Chain]], totals: Sequence[float]) -> int:
    """Return the index of the heaviest group; among ties, of the group with the first-ranked chain."""
    bar = max(totals) * (1 - TIE)
    tied = [index for index, total in enumerate(totals) if total >= bar]
    return min(tied, key=lambda index: min(map(_rank, groups[index])))


def _name(group: Sequence[Chain]) -> str:
    """Return the normalised answer that names the group; it does not depend on which chain finished first."""
    first = min(group, key=lambda chain: (_description_index(chain), chain.fork))
    return answers.normalize(first.answer or "").text


def _rank(chain: Chain | Pending) -> tuple[float, int, int]:
    """Return a sort key that puts the best chain first."""
    return -_score(chain, missing=-math.inf), _description_index(chain), chain.fork


def _score(chain: Chain | Pending, missing: float) -> float:
    return missing if chain.score is None else chain.score


def _description_index(chain: Chain | Pending) -> int:
    return -1 if chain.description is None else chain.description
