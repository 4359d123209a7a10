"""The ballot of a steered request: which chains its descriptions have, and how many votes each chain."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TypeVar

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import AGGREGATORS, Pending
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Sample
from mirl_core.types import Chain, Description

__all__ = ["Ballot"]


ChainOrPending = TypeVar("ChainOrPending", Chain, Pending)


class Ballot:
    """Descriptions with equal content share a chain and add their votes, or every vote has a chain."""

    def __init__(self, options: MIRLOptions) -> None:
        self._options = options
        self._first: dict[tuple[int, ...], int] = {}
        self._votes: Counter[int | None] = Counter()
        self._pending: dict[tuple[int | None, int], Pending] = {}
        self._ended: list[Chain] = []
        self.samples: list[Sample] = []
        """What each ended chain was read from, in the order of `chains`."""

    def enter(self, description: Description) -> tuple[Description, range]:
        """Return the description with its fate, and the numbers of the chains to fork from it."""
        if description.reason is not None:
            return description, range(0)
        index, votes = description.index, description.votes or 1
        forks = range(votes)
        if self._options.share_chains:
            content = description.token_ids[: description.content_tokens]
            first = self._first.setdefault(content, index)
            self._votes[first] += votes
            if first != index:
                return replace(description, kept=True, repeats=first), range(0)
            forks = range(1)
        for fork in forks:
            self._pending[index, fork] = Pending(index, fork, description.score)
        return replace(description, kept=True), forks

    def end(self, chain: Chain, sample: Sample) -> Chain:
        """Enter a chain that ended, and return it with its votes."""
        del self._pending[chain.description, chain.fork]
        self._ended.append(chain)
        self.samples.append(sample)
        return self._counted(chain)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains that ended, in that order, with their votes."""
        return tuple(map(self._counted, self._ended))

    @property
    def outstanding(self) -> int:
        """Number of chains that still run."""
        return len(self._pending)

    def certain(self) -> bool:
        """Return whether the leading answer is likely enough to stay ahead."""
        return voting.certain(self.chains, self._options.aggregate, self._options.certainty)

    def decided(self) -> bool:
        """Return whether the chains that still run can't change the winner, if no description follows."""
        pending = [self._counted(chain) for chain in self._pending.values()]
        return voting.decided(self.chains, pending, self._options.aggregate)

    def open_ended(self) -> bool:
        """Return whether more votes may help: no answer yet, or answers that are counted."""
        texts = [chain.answer for chain in self._ended if chain.finished and chain.answer is not None]
        return not texts or AGGREGATORS[voting.resolve(self._options.aggregate, texts)].votes

    def _counted(self, chain: ChainOrPending) -> ChainOrPending:
        votes = self._votes[chain.description] if self._options.share_chains else 1
        return replace(chain, votes=votes)
