"""What a method is: it answers one banked question from a draw of its samples, and says what that cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

from mirl_core.engines.base import derive_seed
from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion

__all__ = ["Method", "Prepared", "Replay", "ReplayDraw", "replay_draws", "unlabelled"]


@dataclass(frozen=True, slots=True)
class ReplayDraw:
    """Which of the bank's samples a replay uses; the same for all methods, so that comparisons are paired."""

    descriptions: tuple[int, ...]
    """A permutation of the bank's description indices; a method with N uses the first N."""
    forks: tuple[int, ...]
    """A permutation of the bank's fork numbers; a method with m uses the first m."""
    seed: int
    """The random gate's."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay: the answer and its cost."""

    answer: str | None
    """The representative's answer, verbatim; None where no chain gave one."""
    right: bool
    generated_tokens: int
    """Every sampled token once, aborted ones up to the moment of the abort."""
    scored_tokens: int
    trajectories: int
    """Chains that ran to their end."""
    confidence: float | None
    """The winner's share of the vote, or the probability that the pipeline would make of it, 0 to 1; None
    where there was no vote."""


class Method(Protocol):
    """One way to answer a question."""

    @property
    def name(self) -> str:
        """As it was asked for: the key under which results are reported."""
        ...

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        """Raises ConfigError where the bank lacks what the method needs."""
        ...


@runtime_checkable
class Prepared(Method, Protocol):
    """A method that first learns from a deployment's unlabelled traffic; call once per data set."""

    def prepare(self, questions: Sequence[BankedQuestion]) -> Self:
        """The method, fitted to the questions; sees no truth (`unlabelled`)."""
        ...


def replay_draws(banked: BankedQuestion, count: int, seed: int) -> tuple[ReplayDraw, ...]:
    """`count` draws from the bank, a function of (seed, the question's key) and nothing else.

    Rotations of one random permutation (of a new one once they are used up): each single draw is a uniform
    permutation, and all draws together use every sample about equally often, which lowers the variance of
    their mean.
    """
    indices = range(len(banked.descriptions))
    numbers = sorted({chain.fork for chain in banked.chains}) or [0]
    size = max(len(indices), 1)
    step = max(size // max(count, 1), 1)
    drawn = []
    for number in range(count):
        block, turn = divmod(number, size)
        rng = random.Random(derive_seed(seed, banked.key, block))
        order = rng.sample(indices, len(indices))
        forks = rng.sample(numbers, len(numbers))
        start, fork = (turn * step) % size, turn % len(forks)
        draw_seed = derive_seed(seed, banked.key, "draw", number) or 0
        drawn.append(
            ReplayDraw((*order[start:], *order[:start]), (*forks[fork:], *forks[:fork]), draw_seed),
        )
    return tuple(drawn)


def unlabelled(banked: BankedQuestion) -> BankedQuestion:
    """The question without anything that a deployment would not know, and without chains."""

    def blind(description: BankedDescription) -> BankedDescription:
        return replace(description, right=None)

    return replace(
        banked,
        truth="",
        descriptions=tuple(map(blind, banked.descriptions)),
        chains=(),
        greedy=(blind(banked.greedy[0]), None),
        plain_fallback=None,
    )
