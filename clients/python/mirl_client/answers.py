"""Results of the client's calls: an answer, descriptions, scores, and what each of them cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from mirl_client.evidence import Chain, Description, Evidence, Stage, Vote

Message = dict[str, Any]
"""A message of a conversation, in OpenAI's form."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one request."""

    prompt_tokens: int
    """Tokens of the prompt, pictures included; counted once."""
    sampled_tokens: int
    """Tokens that the model sampled, those of dropped descriptions and stopped chains included."""
    scored_tokens: int
    """Tokens whose probability was computed without sampling them."""
    seconds: float
    """Time from the request to the end of its response, measured by the client."""
    stages: tuple[Stage, ...] = ()
    """The cost of each stage; empty for a plain answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question about pictures, and how the server reached it.

    A plain answer (of `NAME:direct`, or to a follow-up without a new picture) has no evidence: `confidence`
    and `vote` are None there, and `descriptions`, `chains` and `warnings` are empty.
    """

    text: str
    """The answer, verbatim."""
    reasoning: str
    """The description and the reasoning that lead to it; empty where the server sends none."""
    model: str
    """Name of the model that answered."""
    finish_reason: str | None
    """`stop`, or `length` where the answer was cut off."""
    cost: Cost
    evidence: Evidence | None = None
    """The server's record of the answer; None for a plain answer."""
    messages: tuple[Message, ...] = field(default=(), repr=False)
    """The conversation up to this answer: the `history` of a follow-up question."""

    @property
    def confidence(self) -> float | None:
        """Return the confidence, 0 to 1: the probability that the answer is right where `calibrated`."""
        return self.evidence.confidence if self.evidence else None

    @property
    def calibrated(self) -> bool:
        """Return whether `confidence` is a probability, and not just the share of the votes."""
        return self.evidence is not None and self.evidence.calibrated

    @property
    def uncalibrated(self) -> str | None:
        """Return why `confidence` is not calibrated, in words; None where it is."""
        return self.evidence.uncalibrated if self.evidence else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what to know before trusting the answer, a sentence each."""
        return self.evidence.warnings if self.evidence else ()

    @property
    def descriptions(self) -> tuple[Description, ...]:
        """Return the descriptions of the pictures with their MI (nats), kept and dropped."""
        return self.evidence.descriptions if self.evidence else ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Return the reasoning chains, in the order in which they ended."""
        return self.evidence.chains if self.evidence else ()

    @property
    def vote(self) -> Vote | None:
        """Return the vote of the chains; None where no answers cluster."""
        return self.evidence.vote if self.evidence else None

    def as_json(self) -> dict[str, Any]:
        """Return the answer as plain JSON values, without the conversation."""
        evidence = self.evidence.model_dump(mode="json") if self.evidence else {}
        # The stages are the cost's, too.
        stages = evidence.pop("stages", [])
        cost = {
            "prompt_tokens": self.cost.prompt_tokens,
            "sampled_tokens": self.cost.sampled_tokens,
            "scored_tokens": self.cost.scored_tokens,
            "seconds": round(self.cost.seconds, 3),
            "stages": stages,
        }
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "model": self.model,
            "finish_reason": self.finish_reason,
            **evidence,
            "cost": cost,
        }


@dataclass(frozen=True, slots=True)
class Descriptions:
    """The descriptions of a picture for a question: the first half of an answer."""

    descriptions: tuple[Description, ...]
    """With their MI (nats), and whether or why not each is kept."""
    mi_weight: float | None
    """λ of their MI; None where no description has one."""
    model: str
    cost: Cost

    @property
    def kept(self) -> tuple[Description, ...]:
        """Return the kept descriptions, in descending order of their score."""
        kept = [description for description in self.descriptions if description.kept]
        return tuple(sorted(kept, key=lambda description: -(description.score or 0.0)))


class Score(BaseModel):
    """How much a description owes to the pictures."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    index: int
    """Its position in the request, from 0."""
    text: str
    tokens: int
    logprob: float
    """log p of the description with the pictures; nats."""
    marginal: float
    """log p of the description without them; nats."""
    mi: float
    """`logprob - λ * marginal`; nats. At λ = 1 a description without a tie to the pictures has about 0."""
    mi_per_token: float
    """Nats a token."""
    token_mi: tuple[float, ...] | None = None
    """MI of each token; nats; None unless the request asks for it."""
    token_pmi: tuple[float, ...] | None = None
    """Pointwise mutual information of each token with the picture: `token_mi` at λ = 1, not clipped; nats."""
    token_texts: tuple[str, ...] | None = None
    """Text of each token, beside `token_mi`; None from servers that are too old to send it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The MI of descriptions with pictures."""

    scores: tuple[Score, ...]
    """In the order of the request."""
    mi_weight: float | None
    """λ of every `mi`."""
    model: str
    cost: Cost
