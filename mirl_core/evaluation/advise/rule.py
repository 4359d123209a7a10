"""The decision of `mirl-eval advise`: pure functions of figures.

**Which way of answering.** The cheapest candidate is advised, unless another candidate is better with
certainty:

1. A candidate is ruled out if some other candidate is certainly better than it by more than the tolerance
   (1 point): the whole interval of their difference lies above the tolerance.
2. Of the remaining candidates, the advice is the candidate with the fewest tokens.

The intervals are wider than single intervals: all differences to one candidate hold together in 95% of
samples (`intervals.py`). To compare ten candidates is to search among them, and the best of ten looks
better than it is. The wider intervals pay for the search. Consider the cheapest candidate that truly is
good enough: within the tolerance of the truly best. It is ruled out in at most 5% of samples, so in at
least 95% of samples the advice costs no more than that candidate. Noise can make the advice too cheap, and
hardly ever too expensive.

**When the sample is too small.** "Nothing is certainly better" may mean that nothing is better, or that the
sample is too small to show it. The sample decides nothing in two cases: the cheapest candidate remains, and
some other candidate may still be better than it by `smallest_gain` (5 points) or more; or fewer than 50
questions have an answer. Where the cheapest candidate is ruled out, the sample does decide that more tokens
pay, and the advice says how much better the others may still be.

**Chains.** Every vote gets a separate chain where more than 10% of repeated chains disagree. This needs no
answers. A slip is a chance event, and votes that share a chain repeat its slip.

**The gate.** The advice is to use it if the advised candidate gates. The advice is against it if all
candidates that gate are ruled out, or if the top-ranked description certainly leads to no more right
answers than a random description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mirl_core.tasks.resampling import Estimate

__all__ = [
    "FEWEST",
    "SLIPS",
    "SMALLEST_GAIN",
    "TOLERANCE",
    "Contender",
    "Decision",
    "GateVerdict",
    "Rival",
    "decide",
    "gate_verdict",
    "shares_chains",
]

TOLERANCE = 0.01
"""Accuracy that the user gives up for fewer tokens; share."""
SMALLEST_GAIN = 0.05
"""Gain over the cheapest candidate that a sample must be able to show; share."""
FEWEST = 50
"""Fewest questions with an answer: with fewer, the bootstrap's intervals are too narrow."""
SLIPS = 0.1
"""Share of repeated chains that disagree, above which every vote gets a separate chain."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that may be advised."""

    name: str
    tokens: float
    """Generated plus scored tokens a question."""
    accuracy: float
    """Share of right answers."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another candidate with its gain over a candidate."""

    name: str
    gain: Estimate
    """Its accuracy minus the candidate's, with the joint interval; share."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of `decide`."""

    advised: str
    """The cheapest candidate that is not ruled out; where the sample is too small, the cheapest of all."""
    too_small: bool
    """Whether the sample decides nothing."""
    cheapest: bool
    """Whether nothing is cheaper than the advised candidate."""
    ruled_out: Mapping[str, Rival]
    """Candidate → the candidate that is better than it with the most certainty."""
    best: Rival | None
    """The most accurate candidate on the sample; None where that is the advised candidate."""
    open: Rival | None
    """The candidate that may be better than the advised candidate by most; None without rivals."""
    needed: int | None
    """Questions that would decide where the sample is too small, if the differences stay as they are."""


class GateVerdict(StrEnum):
    """Whether to use the gate."""

    use = "use"
    against = "against"
    unproven = "unproven"
    """It neither pays nor harms with certainty."""


def decide(
    contenders: Sequence[Contender],
    gains: Mapping[str, Mapping[str, Estimate]],
    questions: int,
    tolerance: float = TOLERANCE,
    smallest_gain: float = SMALLEST_GAIN,
) -> Decision:
    """Return which candidate to use.

    Args:
        contenders: at least one.
        gains: candidate → other candidate → gain of the other over it, with joint intervals; shares.
        questions: number of questions with an answer.
        tolerance: accuracy that the user gives up for fewer tokens; share.
        smallest_gain: gain over the cheapest candidate that the sample must be able to show; share.

    Raises:
        ValueError: there is no candidate, or `smallest_gain` is not above `tolerance`.
    """
    if not contenders:
        raise ValueError("there is no candidate to decide on")
    if smallest_gain <= tolerance:
        raise ValueError("smallest_gain must be above tolerance")
    by_cost = sorted(contenders, key=lambda contender: (contender.tokens, -contender.accuracy))
    rivals = {
        contender.name: [Rival(name, gain) for name, gain in gains[contender.name].items()]
        for contender in by_cost
    }
    ruled_out = {
        name: max(better, key=lambda rival: rival.gain.low)
        for name, others in rivals.items()
        if (better := [rival for rival in others if rival.gain.low > tolerance])
    }
    winner = next(contender for contender in by_cost if contender.name not in ruled_out)
    cheapest = winner is by_cost[0]
    missed = cheapest and any(rival.gain.high >= smallest_gain for rival in rivals[winner.name])
    too_small = questions < FEWEST or missed
    advised = by_cost[0] if too_small else winner
    others = rivals[advised.name]
    most_accurate = max(by_cost, key=lambda contender: contender.accuracy)
    return Decision(
        advised=advised.name,
        too_small=too_small,
        cheapest=advised is by_cost[0],
        ruled_out=ruled_out,
        best=next((r for r in others if r.name == most_accurate.name and r.gain.mean > 0), None),
        open=max(others, key=lambda rival: rival.gain.high, default=None),
        needed=_needed(others, questions, tolerance, smallest_gain) if too_small else None,
    )


def shares_chains(slips: Estimate) -> bool:
    """Return whether equal descriptions may share a chain.

    Args:
        slips: share of repeated chains of one description that disagree; NaN where there was no repeat.
    """
    return not slips.mean > SLIPS


def gate_verdict(decision: Decision | None, gated: Sequence[str], ranking: Estimate | None) -> GateVerdict:
    """Return whether to use the gate.

    Args:
        decision: on the candidates; None: there were no answers to decide by.
        gated: names of the candidates that gate.
        ranking: right answers after the top-ranked description minus those after a random description; None
            where nothing was ranked.
    """
    decided = None if decision is None or decision.too_small else decision
    if decided is not None and decided.advised in gated:
        return GateVerdict.use
    useless = ranking is not None and ranking.n >= FEWEST and ranking.high <= 0
    if useless or (decided is not None and all(name in decided.ruled_out for name in gated)):
        return GateVerdict.against
    return GateVerdict.unproven


def _needed(rivals: Sequence[Rival], questions: int, tolerance: float, smallest_gain: float) -> int | None:
    """Return how many questions decide, if the differences stay and intervals shrink with their root.

    The sample decides once one rival is certainly better, or all are certainly not better by `smallest_gain`.
    None where no number of questions would.
    """
    halves = [(rival.gain.mean, rival.gain.high - rival.gain.mean) for rival in rivals]
    better = [half / (gain - tolerance) for gain, half in halves if gain > tolerance]
    not_better = [
        half / (smallest_gain - gain) if gain < smallest_gain else math.inf for gain, half in halves
    ]
    factor = min([*better, max(not_better, default=0.0)])
    if not math.isfinite(factor):
        return None
    # Rounded, so that the last bit of a share adds no question.
    return max(FEWEST, questions, math.ceil(round(questions * factor**2, 6)))
