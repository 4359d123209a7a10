"""Voting: the answer that chains give together, and when that answer can't change any more.

Guarantees, property-tested by enumerating completions in tests/unit/algorithm/test_voting.py:
- only chains that finished and gave an answer vote;
- `decided` is sound: once it is true, no way in which the outstanding chains end (an answer already given, a
  new answer, prose, none) changes the winning answer. For `majority` and `best` it is also complete: true as
  soon as that holds. For `mi_weighted` and `auto` it may wait a little longer (see `decided`);
- the winner doesn't depend on the order in which chains finished.

`certain` is a rule of another kind: it stops while the winner may still change, with a bounded probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mirl_core.algorithm import answers
from mirl_core.algorithm.aggregators import AGGREGATORS, Outcome, Pending, ResolvedAggregation
from mirl_core.config import Aggregation
from mirl_core.types import Chain

__all__ = ["certain", "decided", "probability_ahead", "ranks", "resolve", "tally"]


def resolve(name: Aggregation, texts: Sequence[str]) -> ResolvedAggregation:
    """Return the rule for these answers. `auto` is `majority` if more than half of them cluster, else `best`.

    Args:
        texts: the answers, verbatim.
    """
    if name != "auto":
        return name
    return "best" if answers.clusters(texts) is None else "majority"


def ranks(name: Aggregation) -> bool:
    """Return whether the rule needs descriptions' scores; False for `auto`, which needs none to vote."""
    return name != "auto" and AGGREGATORS[name].ranks


def tally(chains: Sequence[Chain], aggregation: Aggregation) -> Outcome | None:
    """Return the winner among the chains that finished with an answer; None if there are none."""
    answered = _answered(chains)
    if not answered:
        return None
    rule = resolve(aggregation, [chain.answer or "" for chain in answered])
    return AGGREGATORS[rule].outcome(answered, chains)


def decided(chains: Sequence[Chain], outstanding: Sequence[Pending], aggregation: Aggregation) -> bool:
    """Return whether no outcome of the outstanding chains can change the winning answer.

    "The same answer" is equivalence, not wording. The caller that stops fixes the representative, and with it
    the wording, as the best of the winning chains finished by then.

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
    rules = _possible_rules(answered, len(outstanding), aggregation)
    if not all(AGGREGATORS[rule].settled(answered, outstanding) for rule in rules):
        return False
    winners = [AGGREGATORS[rule].outcome(answered, chains).representative.answer or "" for rule in rules]
    return len(answers.group(winners)) == 1


def certain(chains: Sequence[Chain], aggregation: Aggregation, certainty: float) -> bool:
    """Return whether the leading answer stays ahead with at least this probability; False for rules under
    which votes don't weigh the same.

    Args:
        certainty: 0.5 to 1.
    """
    answered = _answered(chains)
    texts = [chain.answer or "" for chain in answered]
    if not answered or not AGGREGATORS[resolve(aggregation, texts)].equal_votes:
        return False
    votes = sorted((sum(answered[i].votes for i in group) for group in answers.group(texts)), reverse=True)
    return probability_ahead(votes[0], votes[1] if len(votes) > 1 else 0) >= certainty


def probability_ahead(leading: int, second: int) -> float:
    """Return the probability that the leading of two answers is the likelier one, after these votes.

    With a uniform prior the leader's share of the two answers' future votes is Beta(leading + 1, second + 1):
    the stopping rule of Adaptive-Consistency (Aggarwal et al. 2023, "Let's Sample Step by Step").
    """
    # For whole a and b, P(Beta(a, b) > 1/2) is the chance of fewer than a heads in a + b − 1 tosses.
    tosses = leading + second + 1
    ways: int = sum(math.comb(tosses, heads) for heads in range(leading + 1))
    return ways / 2.0**tosses


def _possible_rules(
    answered: Sequence[Chain], outstanding: int, aggregation: Aggregation
) -> list[ResolvedAggregation]:
    """Return the rules that `aggregation` may resolve to once `outstanding` more chains have ended."""
    if aggregation != "auto":
        return [aggregation]
    clustering = sum(answers.normalize(chain.answer or "").clusterable for chain in answered)
    rules: list[ResolvedAggregation] = []
    if 2 * clustering + outstanding > len(answered):
        rules.append("majority")
    if 2 * clustering <= len(answered) + outstanding:
        rules.append("best")
    return rules


def _answered(chains: Sequence[Chain]) -> list[Chain]:
    return [chain for chain in chains if chain.finished and chain.answer is not None]
