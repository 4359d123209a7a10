"""Replay of a steered request against a clock of tokens, with the product's ballot and stopping rules.

Decodes, samples and chains run side by side. A decode takes the tokens of its drafts, one after the other,
and a tick for each round of verification; a sample or a chain of t tokens takes t ticks. A chain starts once
its description is complete, further descriptions in waves once all has ended and the vote is open. The vote
is checked after each description or chain that ends. At the stop the samples and chains that still run have
sampled as many tokens as ticks have passed since they started.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import Outcome
from mirl_core.config import MIRLOptions
from mirl_core.engines.common.samples import empty_sample
from mirl_core.evaluation.bank.records import BankedChain
from mirl_core.evaluation.methods.replay_chains import trace
from mirl_core.pipeline.steered.ballot import Ballot
from mirl_core.types import Chain, Description

__all__ = ["Entrant", "Finish", "race"]


@dataclass(frozen=True, slots=True)
class Entrant:
    """A candidate description of a request, with the chains that may follow it."""

    description: Description
    """Complete, with its votes; `index` is its position among the entrants."""
    ticks: int
    """What it takes to decode or sample it; ticks."""
    chains: Sequence[BankedChain]
    """By fork, at least as many as the options start; none where the description is unusable."""
    scored: int = 0
    """Tokens scored once it is complete."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a replayed request."""

    outcome: Outcome | None
    right: bool
    """Whether the winning chain's answer is right."""
    descriptions: tuple[Description, ...]
    """Those that were complete before the vote was decided, with their fates."""
    generated_tokens: int
    """Of samples and chains; decodes share tokens, which the caller counts."""
    scored_tokens: int
    trajectories: int
    """Chains that ran to their end."""
    ticks: int
    chains: tuple[Chain, ...] = ()
    """The chains that ended, with their votes."""

    @property
    def any_usable(self) -> bool:
        """Whether at least one description has a chain."""
        return any(description.kept for description in self.descriptions)


def race(decoded: Sequence[Entrant], samples: Sequence[Entrant], options: MIRLOptions) -> Finish:
    """Play a steered request to its end.

    Args:
        decoded: the decoded descriptions, in the order of `options.contrast`.
        samples: the samples that the request may draw, in order, `options.descriptions` of them.
    """
    return _Race(decoded, samples, options).run()


class _Running(NamedTuple):
    """Work under way; ordered by its end, then by its start's order."""

    end: int
    order: int
    start: int
    entrant: int
    fork: int | None
    """None: the description itself."""


class _Race:
    """One request's descriptions and chains under way, as in `mirl_core.pipeline.steered.stage`."""

    def __init__(self, decoded: Sequence[Entrant], samples: Sequence[Entrant], options: MIRLOptions) -> None:
        self._options = options
        self._entrants = (*decoded, *samples)
        self._decoded = len(decoded)
        self._started = len(decoded)
        self._ballot = Ballot(options)
        self._running: list[_Running] = []
        self._orders = 0
        self._now = 0
        self._descriptions: list[Description] = []
        self._generated = 0
        self._scored = 0
        self._trajectories = 0

    def run(self) -> Finish:
        for index in range(self._decoded):
            self._start(index, None, self._entrants[index].ticks)
        self._sample(self._options.ahead)
        while self._running:
            work = heapq.heappop(self._running)
            self._now = work.end
            self._end(work)
            if self._running and self._is_decided():
                break
            if not self._running and self._vote_is_open():
                self._sample(self._options.wave)
        outcome = voting.tally(self._ballot.chains, self._options.aggregate)
        for work in self._running:
            self._count(work)
        return Finish(
            outcome=outcome,
            right=outcome is not None and self._banked(outcome.representative).right,
            descriptions=tuple(self._descriptions),
            generated_tokens=self._generated,
            scored_tokens=self._scored,
            trajectories=self._trajectories,
            ticks=self._now,
            chains=self._ballot.chains,
        )

    def _end(self, work: _Running) -> None:
        """Enter a description or chain that ended."""
        self._count(work)
        entrant = self._entrants[work.entrant]
        if work.fork is None:
            description, forks = self._ballot.enter(entrant.description)
            self._descriptions.append(description)
            self._scored += entrant.scored
            for fork in forks:
                self._start(work.entrant, fork, entrant.chains[fork].tokens)
        else:
            banked = entrant.chains[work.fork]
            chain = trace(work.entrant, work.fork, banked, entrant.description.score).chain
            self._ballot.end(chain, empty_sample(work.fork, chain.finish_reason))

    def _count(self, work: _Running) -> None:
        """Count what was sampled by now, and a chain that ended by now."""
        if work.fork is not None or work.entrant >= self._decoded:
            self._generated += min(self._now, work.end) - work.start
        if work.fork is not None and work.end <= self._now:
            self._trajectories += 1

    def _is_decided(self) -> bool:
        if not self._options.early_stop:
            return False
        if self._ballot.certain():
            return True
        complete = len(self._running) == self._ballot.outstanding and self._started == len(self._entrants)
        return complete and self._ballot.decided()

    def _vote_is_open(self) -> bool:
        return self._ballot.open_ended() and not self._ballot.certain()

    def _sample(self, count: int) -> None:
        """Start `count` more samples, or as many as are left."""
        first = self._started
        self._started = min(first + count, len(self._entrants))
        for index in range(first, self._started):
            self._start(index, None, self._entrants[index].ticks)

    def _start(self, entrant: int, fork: int | None, ticks: int) -> None:
        heapq.heappush(self._running, _Running(self._now + ticks, self._orders, self._now, entrant, fork))
        self._orders += 1

    def _banked(self, chain: Chain) -> BankedChain:
        assert chain.description is not None, "every chain continues a description"
        return self._entrants[chain.description].chains[chain.fork]
