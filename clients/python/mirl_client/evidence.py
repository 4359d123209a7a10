"""The evidence of one answer, as the server sends it. Unknown fields are ignored: servers may add some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class _EvidenceModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Switch(_EvidenceModel):
    """A position at which a decoded description takes another token than the model given the image alone."""

    position: int
    """Index in the description's tokens."""
    drafted: str
    """The token that is likelier given the image."""
    chosen: str
    """The token that owes more to the image."""
    gain: float | None
    """By how much the chosen token's contrast exceeds the drafted one's; nats; None where it is infinite."""


class Decoding(_EvidenceModel):
    """How a description was decoded instead of sampled."""

    mi_weight: float
    """λ of the decode."""
    rounds: int
    """Drafts that it waited for, one after the other."""
    switches: tuple[Switch, ...]


class Description(_EvidenceModel):
    """One sampled or decoded description with its scores and its fate."""

    index: int
    text: str
    tokens: int
    mi: float | None
    """Mutual information with the image; nats; None where it was not computed."""
    mi_per_token: float | None
    score: float | None
    """The gate's score."""
    kept: bool
    reason: str | None
    """Why it was dropped; None where it was kept."""
    token_mi: tuple[float, ...] | None = None
    """MI of each content token; nats; None unless the request asks for it."""
    token_pmi: tuple[float, ...] | None = None
    """Pointwise mutual information of each content token with the picture; nats: `token_mi` at λ = 1, not
    clipped."""
    token_texts: tuple[str, ...] | None = None
    """Text of each content token, beside `token_mi`; empty where a token ends inside a character."""
    votes: int | None = None
    """Votes that it gives to its chain's answer; None where descriptions are gated: there chains vote."""
    repeats: int | None = None
    """Index of the description with the same content whose chain it shares."""
    decoding: Decoding | None = None
    """How it was decoded; None: it was sampled."""


class Chain(_EvidenceModel):
    """One reasoning chain's outcome."""

    description: int | None
    """Index of the description that it continues; None: plain generation."""
    fork: int
    answer: str | None
    tokens: int
    finish_reason: str
    """`stop`, `length`, or `abort`: stopped because it could no longer change the winner."""
    votes: int = 1
    """Votes of its answer."""


class Vote(_EvidenceModel):
    """The result of a vote over answers that cluster."""

    answer: str
    counts: dict[str, float]
    share: float


class Representative(_EvidenceModel):
    """The chain whose answer was returned."""

    description: int | None
    fork: int


class Stage(_EvidenceModel):
    """The cost of one stage."""

    stage: str
    sequences: int
    generated_tokens: int
    scored_tokens: int
    seconds: float


class Budget(_EvidenceModel):
    """N, k and m of a request, set by its options or by its `reasoning_effort`."""

    descriptions: int
    """Most sampled descriptions."""
    keep: int | None = None
    """None where descriptions are decoded."""
    forks: int | None = None
    """None where descriptions are decoded."""
    decoded: int | None = None
    """Decoded descriptions; None where all are sampled."""


class Evidence(_EvidenceModel):
    """The server's record of one gated answer."""

    budget: Budget | None = None
    """None where the server is too old to send it."""
    descriptions: tuple[Description, ...]
    chains: tuple[Chain, ...]
    representative: Representative
    vote: Vote | None
    confidence: float | None
    """0 to 1: the probability that the answer is right where `calibrated`, else `vote.share`."""
    calibrated: bool = False
    """Whether `confidence` is calibrated: the model's own options, a vote that was not cut short, and
    descriptions as likely as those of the calibration."""
    uncalibrated: str | None = None
    """Why it is not calibrated, in words; None where it is."""
    warnings: tuple[str, ...] = ()
    """What a reader of the answer should know before they trust it, a sentence each."""
    margin: float | None
    """Gate score of the representative's description less the best score of another text; nats."""
    aggregation: str
    """The rule that decided: `majority`, `mi_weighted` or `best`."""
    partial: bool
    """Whether the deadline passed and this is the best answer so far."""
    fallback: str | None
    """Why the gate was not used; None where it was."""
    mi_weight: float | None = None
    """λ of every description's `mi`, `auto` resolved; None where no description has an `mi`."""
    stages: tuple[Stage, ...]

    @property
    def kept(self) -> tuple[Description, ...]:
        """The kept descriptions, in descending order of their score."""
        kept = [description for description in self.descriptions if description.kept]
        return tuple(sorted(kept, key=lambda description: -(description.score or 0.0)))

    @property
    def best(self) -> Description | None:
        """The description that the returned answer continues; None after a fallback."""
        by_index = {description.index: description for description in self.descriptions}
        index = self.representative.description
        return None if index is None else by_index[index]


def evidence(response: object, choice: int = 0) -> Evidence | None:
    """Return the evidence of a chat completion, or of a stream's chunk; None where there is none.

    Args:
        response: an object of the openai package, or the JSON of a response as a mapping.
        choice: index of the answer, of `n`. A chunk is about the answer of its own `choices[0].index`.

    Plain answers (`NAME:direct`, follow-ups, text) and chunks before a stream's last stage event have none.

    Raises:
        IndexError: the response has fewer choices.
    """
    fields: Any = response.get("mirl") if isinstance(response, Mapping) else getattr(response, "mirl", None)
    if isinstance(fields, Mapping) and isinstance(fields.get("choices"), list):
        fields = {"budget": fields.get("budget"), **fields["choices"][choice]}
    if not isinstance(fields, Mapping) or "representative" not in fields or "descriptions" not in fields:
        return None
    return Evidence.model_validate(fields)
