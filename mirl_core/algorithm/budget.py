"""Budgets of a request: how many sequences and tokens it may come to, and how its token limit is shared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirl_core.algorithm.gates import GATES
from mirl_core.config import MIRLOptions
from mirl_core.errors import RequestError

__all__ = [
    "Fanout",
    "chain_limit",
    "check_budget",
    "description_limit",
    "fanout",
    "may_switch",
    "scored_tokens",
]

DRAFTING = 4
"""Times its length that a decoded description may take in drafted tokens, and again in verified ones."""


@dataclass(frozen=True, slots=True)
class Fanout:
    """Upper bounds of what a request samples and scores."""

    descriptions: int
    """Sequences of the first stage."""
    chains: int
    """Sequences that may run to an answer."""
    tokens: int
    """Sampled tokens of all of them."""
    scored_tokens: int
    """Tokens of all scoring passes over the descriptions."""

    @property
    def sequences(self) -> int:
        """All sequences: n · (N + k · m); of a steered request n times its descriptions and chains."""
        return self.descriptions + self.chains


def fanout(
    options: MIRLOptions, max_tokens: int, *, answers: int = 1, forks: bool = True, passes: int = 0
) -> Fanout:
    """Return the fan-out of a request.

    Args:
        max_tokens: longest trajectory (description plus chain); tokens.
        answers: how many answers the request asks for (`n`), each with its own N, k and m.
        forks: whether chains are started; describing alone starts none.
        passes: scoring passes over each description.
    """
    sampled = options.descriptions
    if options.steered:
        sampled = sampled if forks else 0
        decoded = len(options.contrast)
        most_chains = sampled + (decoded if options.share_chains else sum(options.votes))
    else:
        decoded = 0
        most_chains = GATES[options.gate].most_kept(options) * options.forks
    chains = answers * most_chains if forks else 0
    described = answers * (sampled + DRAFTING * decoded) * min(options.description_tokens, max_tokens)
    tokens = described + chains * max_tokens
    return Fanout(
        descriptions=answers * (sampled + decoded),
        chains=chains,
        tokens=min(tokens, options.max_total_tokens or tokens),
        scored_tokens=passes * described,
    )


def check_budget(options: MIRLOptions) -> None:
    """Check that `max_total_tokens` is enough: half of it is for descriptions, the rest for chains.

    Raises:
        RequestError: a half leaves less than a token for each of its sequences.
    """
    total = options.max_total_tokens
    if total is None:
        return
    sequences = fanout(options, max_tokens=1)
    needed = 2 * max(options.descriptions + DRAFTING * len(options.contrast), sequences.chains)
    if total < needed:
        raise RequestError(
            f"mirl.max_total_tokens leaves {total} for an answer, but this many descriptions and chains "
            f"need at least {needed}; raise it or lower mirl.descriptions, mirl.keep or mirl.forks",
            param="mirl.max_total_tokens",
        )


def description_limit(options: MIRLOptions, max_tokens: int) -> int:
    """Return how many tokens a description may have.

    Args:
        max_tokens: longest trajectory; tokens.
    """
    limit = min(options.description_tokens, max_tokens)
    if options.max_total_tokens is None:
        return limit
    shares = options.descriptions + DRAFTING * len(options.contrast)
    return min(limit, options.max_total_tokens // (2 * shares))


def may_switch(drafted: int, position: int, limit: int) -> bool:
    """Return whether a decode may take another token than its draft, and still stay within `DRAFTING`.

    Args:
        drafted: what the decode has drafted so far; tokens.
        position: of the switch; at most `limit - position` tokens are drafted after it, unless it switches
            again.
        limit: longest description; tokens.
    """
    return drafted + limit - position <= DRAFTING * limit


def chain_limit(options: MIRLOptions, max_tokens: int, used: int, chains: int) -> int:
    """Return how many tokens each of `chains` chains may have.

    Args:
        max_tokens: what the trajectory's limit leaves for the chain; tokens.
        used: what the request has sampled so far; tokens.
    """
    if options.max_total_tokens is None:
        return max_tokens
    return min(max_tokens, max((options.max_total_tokens - used) // chains, 1))


def scored_tokens(passes: int, opening_tokens: int, lengths: Iterable[int]) -> int:
    """Return how many tokens it takes to score descriptions.

    Args:
        passes: scoring passes over each description.
        opening_tokens: length of the opening tag, which is scored before each description; tokens.
        lengths: content tokens of each distinct description.
    """
    return passes * sum(opening_tokens + length for length in lengths)
