"""The pipeline's events, in this order; `Finished` comes last, once.

    Started → Described* → Gated → ChainDone* → Decided → ChainDone* → Finished
    Started → Described* → FellBack → ChainDone → Decided → Finished    (no usable description)

`Decided` is missing where no chain gave an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirl_core.types import Chain, Description, Result, StageUsage, Vote


@dataclass(frozen=True, slots=True)
class Started:
    """The conversation is rendered."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Described:
    """One description was sampled (not yet scored)."""

    description: Description


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


Event = Started | Described | Gated | FellBack | ChainDone | Decided | Finished
