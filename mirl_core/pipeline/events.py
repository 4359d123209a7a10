"""What the pipeline tells while it works, in this order; `Finished` always comes last, once.

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
    """All descriptions are scored; each says whether it was kept, or why not."""

    descriptions: tuple[Description, ...]
    mi_weight: float | None = None
    """λ of their `mi`, `auto` resolved; None where none has one."""
    stages: tuple[StageUsage, ...] = ()
    """What describing and scoring cost."""


@dataclass(frozen=True, slots=True)
class FellBack:
    """No description was usable; the request goes on as plain generation."""

    reason: str
    stages: tuple[StageUsage, ...] = ()
    """What describing cost."""


@dataclass(frozen=True, slots=True)
class ChainDone:
    """One chain finished, or was aborted."""

    chain: Chain


@dataclass(frozen=True, slots=True)
class Decided:
    """No outstanding chain can change the winner any more; the answer of `Finished` is this one."""

    vote: Vote | None
    representative: Chain
    outstanding: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end."""

    result: Result


Event = Started | Described | Gated | FellBack | ChainDone | Decided | Finished
