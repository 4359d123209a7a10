"""The contract of methods: answer one banked question from a draw of its samples, with the cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, runtime_checkable

from mirl_core.engines.base import derive_seed
from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion
from mirl_core.types import Chain, Description

__all__ = ["Method", "Prepared", "Replay", "ReplayDraw", "replay_draws", "unlabelled"]


@dataclass(frozen=True, slots=True)
class ReplayDraw:
    """The order of the bank's samples in one replay; equal for all methods, so that comparisons are
    paired."""

    descriptions: tuple[int, ...]
    """A permutation of the bank's description indices; a method with N uses the first N."""
    forks: tuple[int, ...]
    """A permutation of the bank's fork numbers; a method with m uses the first m."""
    seed: int
    """Seed of the random gate."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay: the answer and its cost."""

    answer: str | None
    """The representative's answer, verbatim; None where no chain has one."""
    right: bool
    generated_tokens: int
    """Every sampled token once; of aborted chains those before the abort."""
    scored_tokens: int
    trajectories: int
    """Chains that ran to their end."""
    confidence: float | None
    """The winner's share of the vote, or its calibrated probability as in the pipeline, 0 to 1; None without
    a vote."""
    ticks: int | None = None
    """Time to the answer on the method's clock of tokens: what was sampled one token after the other; None
    where the method has no clock."""
    descriptions: tuple[Description, ...] = field(default=(), compare=False, repr=False)
    """What a gate or a contrastive method ranked, with scores and fates; `index` is the position in the draw,
    decoded descriptions first. Empty for methods that rank none."""
    chains: tuple[Chain, ...] = field(default=(), compare=False, repr=False)
    """The chains that ended, with their votes; `description` is the position in the draw, None for the greedy
    trajectory and for plain generation."""


class Method(Protocol):
    """One way to answer a question."""

    @property
    def name(self) -> str:
        """The name as the user wrote it: the key of the results."""
        ...

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        """Answer the question from the draw's samples.

        Raises:
            ConfigError: the bank lacks samples or scores that the method needs.
        """
        ...


@runtime_checkable
class Prepared(Method, Protocol):
    """A method that first learns from a deployment's unlabelled traffic, once per data set."""

    def prepare(self, questions: Sequence[BankedQuestion]) -> Self:
        """Return the method fitted to the questions, whose truths it doesn't see (`unlabelled`)."""
        ...


def replay_draws(banked: BankedQuestion, count: int, seed: int) -> tuple[ReplayDraw, ...]:
    """Return `count` draws from the bank, a function of (seed, the question's key) and nothing else.

    The draws are rotations of a random permutation, and of a new permutation after the last rotation. Each
    draw is a uniform permutation, and all draws together use every sample about equally often, which lowers
    the variance of their mean.
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
    """Return the question without truths and judgements, which a deployment lacks, and without chains.

    Only the descriptions sampled at the plan's temperature and the greedy one stay.
    """

    def blind(description: BankedDescription) -> BankedDescription:
        return replace(description, right=None)

    return replace(
        banked,
        truth="",
        descriptions=tuple(map(blind, banked.descriptions)),
        chains=(),
        greedy=(blind(banked.greedy[0]), None),
        plain_fallback=None,
        decoded=(),
        at_temperatures={},
    )
