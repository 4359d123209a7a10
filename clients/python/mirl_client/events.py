"""Events of a streamed answer, in the order in which they come.

    Started → Described* → Gated → (Branched | ChainDone)* → Decided → ChainDone* → TextDelta* → Finished
    Started → Described* → FellBack → ChainDone → Decided → TextDelta* → Finished   (no usable description)
    Started → (Branched | Described | ChainDone)* → Decided → ChainDone* → TextDelta* → Finished   (steered)
    TextDelta* → Finished                                                           (a plain answer)

`Decided` is missing where no chain gave an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirl_client.answers import Answer
from mirl_client.evidence import Budget, Chain, Description, Representative, Vote


@dataclass(frozen=True, slots=True)
class Started:
    """The server has read the request."""

    prompt_tokens: int
    budget: Budget | None
    """Most descriptions and chains of the request."""


@dataclass(frozen=True, slots=True)
class Described:
    """One description is complete: sampled and not yet scored, or decoded."""

    description: Description


@dataclass(frozen=True, slots=True)
class Gated:
    """All descriptions are scored, and each is kept or dropped."""

    descriptions: tuple[Description, ...]
    mi_weight: float | None
    """λ of their MI; None where no description has one."""


@dataclass(frozen=True, slots=True)
class FellBack:
    """No description was usable; the answer is a plain one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Branched:
    """More descriptions or chains have started, where their number is not known from the beginning."""

    descriptions: int
    chains: int


@dataclass(frozen=True, slots=True)
class ChainDone:
    """One reasoning chain has ended, or was stopped."""

    chain: Chain


@dataclass(frozen=True, slots=True)
class Decided:
    """The winner is final: no chain that still runs can change it."""

    vote: Vote | None
    representative: Representative
    """The chain whose answer wins."""
    outstanding: int
    """Chains that still run, and are stopped."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text, of its reasoning, or of both."""

    text: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; the last event."""

    answer: Answer


Event = Started | Described | Gated | FellBack | Branched | ChainDone | Decided | TextDelta | Finished
"""An event of a streamed answer."""
