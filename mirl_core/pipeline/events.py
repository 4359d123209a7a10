"""The pipeline's events, in this order; `Finished` comes last, once.

    Started → Described* → Gated → (Branched | ChainDone)* → Decided → ChainDone* → Finished
    Started → Described* → FellBack → ChainDone → Decided → Finished    (no usable description)
    Started → (Branched | Described | ChainDone)* → Decided → ChainDone* → Finished          (steered)

`Decided` is missing where no chain gave an answer. Where only descriptions are wanted, `Gated`
or `FellBack` is the last.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirl_core.types import Chain, Description, Result, StageUsage, Vote


@dataclass(frozen=True, slots=True)
class Started:
    """The conversation is rendered."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Branched:
    """More sequences run, where their number is not known from the start."""

    descriptions: int = 0
    chains: int = 0


@dataclass(frozen=True, slots=True)
class Described:
    """One description was sampled (not yet scored), or decoded."""

    description: Description
    sampled_tokens: int
    """Tokens of describing since the last such event: of a decoded description its drafts."""


@dataclass(frozen=True, slots=True)
class Gated:
    """All descriptions are scored and gated, each kept or with the reason why not."""

    descriptions: tuple[Description, ...]
    mi_weight: float | None = None
    """λ of their `mi`, `auto` resolved; None where no description has an `mi`."""
    stages: tuple[StageUsage, ...] = ()
    """The cost of describing and scoring."""


@dataclass(frozen=True, slots=True)
class FellBack:
    """No description was usable; the request goes on as plain generation."""

    reason: str
    stages: tuple[StageUsage, ...] = ()
    """The cost of describing."""


@dataclass(frozen=True, slots=True)
class ChainDone:
    """One chain finished, or was aborted."""

    chain: Chain


@dataclass(frozen=True, slots=True)
class Decided:
    """The winner is final: no outstanding chain can change it, and `Finished` has its answer."""

    vote: Vote | None
    representative: Chain
    outstanding: int
    """Chains that still run."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The result is complete."""

    result: Result


Event = Started | Branched | Described | Gated | FellBack | ChainDone | Decided | Finished
