"""The evidence of one answer, as the server tells it. Unknown fields are ignored: servers grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class _EvidenceModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Description(_EvidenceModel):
    """One sampled description and what became of it."""

    index: int
    text: str
    tokens: int
    mi: float | None
    """Mutual information with the image; nats. None where the gate needed none."""
    mi_per_token: float | None
    score: float | None
    """What the gate ranked by."""
    kept: bool
    reason: str | None
    """Why it was dropped; None where it was kept."""
    token_mi: tuple[float, ...] | None = None
    """Nats per token, where asked for."""


class Chain(_EvidenceModel):
    """One reasoning chain's outcome."""

    description: int | None
    """Index of the description that it continues; None: plain generation."""
    fork: int
    answer: str | None
    tokens: int
    finish_reason: str
    """`stop`, `length`, or `abort`: stopped because it could no longer change the winner."""


class Vote(_EvidenceModel):
    """The outcome where answers cluster."""

    answer: str
    counts: dict[str, float]
    share: float


class Representative(_EvidenceModel):
    """The chain whose answer was returned."""

    description: int | None
    fork: int


class Stage(_EvidenceModel):
    """What one stage cost."""

    stage: str
    sequences: int
    generated_tokens: int
    scored_tokens: int
    seconds: float


class Budget(_EvidenceModel):
    """What a request got, by its knobs or by its `reasoning_effort`."""

    descriptions: int
    keep: int
    forks: int


class Evidence(_EvidenceModel):
    """Everything the server tells about one gated answer."""

    budget: Budget | None = None
    """None where the server is too old to tell."""
    descriptions: tuple[Description, ...]
    chains: tuple[Chain, ...]
    representative: Representative
    vote: Vote | None
    confidence: float | None
    """0 to 1: the probability that the answer is right where `calibrated`, else `vote.share`."""
    calibrated: bool = False
    """Whether the model's calibration made `confidence`: its own options, and a vote that ran its course."""
    margin: float | None
    aggregation: str
    partial: bool
    """The deadline passed and this is the best so far."""
    fallback: str | None
    """Why the gate was not used; None where it was."""
    mi_weight: float | None = None
    """λ of every description's `mi`, also where the request said `auto`; None where none has one."""
    stages: tuple[Stage, ...]

    @property
    def kept(self) -> tuple[Description, ...]:
        """The descriptions that went on, the highest score first."""
        kept = [one for one in self.descriptions if one.kept]
        return tuple(sorted(kept, key=lambda one: -(one.score or 0.0)))

    @property
    def best(self) -> Description | None:
        """The description that the returned answer rests on; None after a fallback."""
        found = {one.index: one for one in self.descriptions}
        chosen = self.representative.description
        return None if chosen is None else found[chosen]


def evidence(response: object, choice: int = 0) -> Evidence | None:
    """The evidence of a chat completion, or of a stream's chunk; None where there is none.

    Args:
        response: an object of the openai package, or the JSON of a response as a mapping.
        choice: which of `n` answers. A chunk is about the one that its own `choices[0].index` says.

    Plain answers (`NAME:direct`, follow-ups, text) and chunks before a stream's last stage event have none.

    Raises:
        IndexError: the response has fewer choices.
    """
    told: Any = response.get("mirl") if isinstance(response, Mapping) else getattr(response, "mirl", None)
    if isinstance(told, Mapping) and isinstance(told.get("choices"), list):
        told = {"budget": told.get("budget"), **told["choices"][choice]}
    if not isinstance(told, Mapping) or "representative" not in told or "descriptions" not in told:
        return None
    return Evidence.model_validate(told)
