"""Aggregation: how chains become one answer, and when that answer can't change any more.

Guarantees, property-tested by enumerating completions in tests/unit/algorithm/test_voting.py:
- only chains that finished and gave an answer vote;
- `decided` is sound: once it is true, no way in which the outstanding chains end (an answer already given, a
  new one, prose, none) changes the winning answer. For `majority` and `best` it is also complete: true as
  soon as that holds. For `mi_weighted` and `auto` it may wait a little longer (see `decided`);
- the winner doesn't depend on the order in which chains finished.

Chains are ranked by their description's gate score, then by the lower (description, fork): a strict order, so
that every tie has a defined end. The representative is the first chain of the winning answer in that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mirl_core.algorithm import answers as answer_rules
from mirl_core.config import Aggregation
from mirl_core.types import Chain, Vote

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Best",
    "MIWeighted",
    "Majority",
    "Outcome",
    "Pending",
    "decided",
    "resolve",
    "tally",
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the chains so far amount to."""

    representative: Chain
    vote: Vote | None
    """None for `best`, which doesn't vote."""
    confidence: float | None
    """The winner's share of the vote, 0 to 1."""
    aggregation: ResolvedAggregation


class Aggregator(Protocol):
    """One rule. `chains` are all chains, `answered` those of them that vote; `answered` is never empty."""

    def outcome(self, answered: Sequence[Chain], chains: Sequence[Chain]) -> Outcome: ...

    def settled(self, answered: Sequence[Chain], outstanding: Sequence[Pending]) -> bool:
        """Whether nothing that the outstanding chains may bring changes the winning answer."""
        ...


@dataclass(frozen=True, slots=True)
class Majority:
    """Most chains win; a tie goes to the answer with the best-scored description."""

    def weights(self, chains: Iterable[Chain | Pending]) -> dict[int | None, float]:
        """What a chain of each description weighs."""
        return {chain.description: 1.0 for chain in chains}

    @property
    def name(self) -> ResolvedAggregation:
        return "majority"

    def outcome(self, answered: Sequence[Chain], chains: Sequence[Chain]) -> Outcome:
        weights = self.weights(chains)
        groups = _groups(answered)
        totals = [_total(group, weights) for group in groups]
        winner = _winner(groups, totals)
        representative = min(groups[winner], key=_rank)
        counts: dict[str, float] = {}
        for group, total in zip(groups, totals, strict=True):
            key = answer_rules.normalize(_first(group).answer or "").text
            counts[key] = counts.get(key, 0.0) + total
        whole = math.fsum(totals)
        share = totals[winner] / whole if whole else 1 / len(groups)
        answer = answer_rules.normalize(_first(groups[winner]).answer or "").text
        return Outcome(representative, Vote(answer, counts, share), share, self.name)

    def settled(self, answered: Sequence[Chain], outstanding: Sequence[Pending]) -> bool:
        """The worst case: all outstanding chains join one rival, or found one together."""
        weights = self.weights([*answered, *outstanding])
        groups = _groups(answered)
        totals = [_total(group, weights) for group in groups]
        winner = _winner(groups, totals)
        coming = _total(outstanding, weights)
        first = _rank(min(groups[winner], key=_rank))
        # A rival with nothing outstanding to gain stays what it is: beaten.
        rivals: list[tuple[float, Sequence[Chain | Pending]]] = [(0.0, [])]
        rivals += [
            (total, group)
            for place, (total, group) in enumerate(zip(totals, groups, strict=True))
            if place != winner
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
    the default `normalize="token"` the weights differ gently, by the per-token MI.
    """

    @property
    def name(self) -> ResolvedAggregation:
        return "mi_weighted"

    def weights(self, chains: Iterable[Chain | Pending]) -> dict[int | None, float]:
        scores = {chain.description: _score(chain, missing=0.0) for chain in chains}
        top = max(scores.values())
        masses = {one: 1.0 if score == top else math.exp(score - top) for one, score in scores.items()}
        whole = math.fsum(masses.values())
        return {one: mass / whole for one, mass in masses.items()}


@dataclass(frozen=True, slots=True)
class Best:
    """No vote: the answer of the best-scored description's first chain that has one."""

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


def resolve(name: Aggregation, answers: Sequence[str]) -> ResolvedAggregation:
    """`auto` as a rule for these answers: `majority` if more than half of them cluster, else `best`."""
    if name != "auto":
        return name
    return "best" if answer_rules.clusters(answers) is None else "majority"


def tally(chains: Sequence[Chain], aggregation: Aggregation) -> Outcome | None:
    """The winner among the chains that finished with an answer; None if there are none."""
    answered = _answered(chains)
    if not answered:
        return None
    rule = resolve(aggregation, [chain.answer or "" for chain in answered])
    return AGGREGATORS[rule].outcome(answered, chains)


def decided(chains: Sequence[Chain], outstanding: Sequence[Pending], aggregation: Aggregation) -> bool:
    """Whether no outcome of the outstanding chains can change the winning answer.

    "The same answer" is equivalence, not spelling; the representative, and with it the wording, is fixed by
    whoever stops, as the best of the winning chains finished by then.

    `auto` is resolved from all answers, so the outstanding ones count too: with `a` answers so far, `c` of
    them of kinds that cluster, and `n` outstanding, the rule will be majority for certain if 2c > a + n, and
    best for certain if 2c + n ≤ a. In between either may come, and the winner must be settled under both
    rules and be the same answer under both. That is sound, and waits longer than strictly necessary only
    where an outcome that would flip the majority would itself have turned the rule into best.
    `mi_weighted` waits where two totals differ by less than rounding.
    """
    answered = _answered(chains)
    if not answered or not outstanding:
        return bool(answered)
    rules: list[ResolvedAggregation]
    if aggregation == "auto":
        clustering = sum(answer_rules.normalize(chain.answer or "").clusterable for chain in answered)
        rules = []
        if 2 * clustering + len(outstanding) > len(answered):
            rules.append("majority")
        if 2 * clustering <= len(answered) + len(outstanding):
            rules.append("best")
    else:
        rules = [aggregation]
    if not all(AGGREGATORS[rule].settled(answered, outstanding) for rule in rules):
        return False
    winners = [AGGREGATORS[rule].outcome(answered, chains).representative.answer or "" for rule in rules]
    return len(answer_rules.group(winners)) == 1


def _answered(chains: Sequence[Chain]) -> list[Chain]:
    return [chain for chain in chains if chain.finished and chain.answer is not None]


def _groups(answered: Sequence[Chain]) -> list[list[Chain]]:
    return [
        [answered[place] for place in group]
        for group in answer_rules.group([chain.answer or "" for chain in answered])
    ]


def _total(chains: Sequence[Chain | Pending], weights: Mapping[int | None, float]) -> float:
    return math.fsum(weights[chain.description] for chain in chains)


def _winner(groups: Sequence[Sequence[Chain]], totals: Sequence[float]) -> int:
    """The heaviest group; among those as heavy, the one with the first-ranked chain."""
    bar = max(totals) * (1 - TIE)
    tied = [place for place, total in enumerate(totals) if total >= bar]
    return min(tied, key=lambda place: min(map(_rank, groups[place])))


def _first(group: Sequence[Chain]) -> Chain:
    """The chain whose wording names the group: independent of who finished first."""
    return min(group, key=lambda chain: (_place(chain), chain.fork))


def _rank(chain: Chain | Pending) -> tuple[float, int, int]:
    """Sorts the best first."""
    return -_score(chain, missing=-math.inf), _place(chain), chain.fork


def _score(chain: Chain | Pending, missing: float) -> float:
    return missing if chain.score is None else chain.score


def _place(chain: Chain | Pending) -> int:
    return -1 if chain.description is None else chain.description
