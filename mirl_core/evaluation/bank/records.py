"""Records of one question in the bank: enough to replay any gate, vote and stopping rule offline.

Nats and counts of tokens, no token ids and no text of chains: a line of 16 descriptions with 3 chains each
stays well under 40 kB; each decoded description or further temperature adds a few. Log-probabilities are
rounded to `DIGITS` decimals when they are written; the error, at most 5e-5 nats a token, lies far below the
difference of two descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mirl_core.types import FinishReason

__all__ = [
    "DIGITS",
    "BankedChain",
    "BankedDecoded",
    "BankedDescription",
    "BankedQuestion",
    "BankedTrajectories",
]

DIGITS = 4
"""Decimals of a written log-probability."""


@dataclass(frozen=True, slots=True)
class BankedDescription:
    """One sampled or decoded description, scored under every estimator of the plan."""

    text: str
    tokens: int
    """Sampled tokens, closing tag included."""
    content_tokens: int
    reason: str | None
    """`truncated`, `empty`, `unparsable` (see `mirl_core.algorithm.segments.read_description`), or None."""
    logprobs: tuple[float, ...]
    """log p(d_t | d_<t, I, q) of the content tokens; nats; empty at a plan's further temperatures."""
    marginals: Mapping[str, tuple[float, ...]]
    """Estimator → log p(d_t | d_<t, q) of the content tokens, nats; empty where `reason` is set, and where
    nothing is scored: on the greedy description and at further temperatures."""
    right: bool | None
    """Whether the description is true of the picture; None where the data set has no judge."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "content_tokens": self.content_tokens,
            "reason": self.reason,
            "logprobs": _rounded(self.logprobs),
            "marginals": {name: _rounded(values) for name, values in self.marginals.items()},
            "right": self.right,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> BankedDescription:
        """Return the inverse of `to_json`, up to rounding.

        Raises:
            TypeError, KeyError, ValueError: the data are no such record.
        """
        fields = dict(record)
        fields["logprobs"] = tuple(map(float, fields["logprobs"]))
        fields["marginals"] = {
            name: tuple(map(float, values)) for name, values in fields["marginals"].items()
        }
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class BankedChain:
    """One reasoning chain, forked from a description of its question."""

    description: int
    """Index in `BankedQuestion.descriptions`; -1 for the greedy trajectory, for chains of decoded
    descriptions and for plain generation."""
    fork: int
    answer: str | None
    right: bool
    tokens: int
    finish_reason: FinishReason
    confidence: float | None
    """DeepConf (Fu et al. 2025): mean over the tokens of the trajectory, description and chain, of
    −1/20 Σ_j log P(j), j the 20 likeliest tokens; nats. None without tokens, for chains of decoded
    descriptions and at further temperatures."""
    lowest_confidence: float | None
    """The lowest mean of the same over `WINDOW` neighbouring tokens ("lowest group confidence"); nats."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "description": self.description,
            "fork": self.fork,
            "answer": self.answer,
            "right": self.right,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "confidence": _rounded_one(self.confidence),
            "lowest_confidence": _rounded_one(self.lowest_confidence),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> BankedChain:
        """Return the inverse of `to_json`, up to rounding.

        Raises:
            TypeError: the data are no such record.
        """
        return cls(**record)


@dataclass(frozen=True, slots=True)
class BankedDecoded:
    """One contrastively decoded description with its chains, and the work that it took.

    Decodes of a question share drafts and scoring passes: a set of decodes costs the union of its indices.
    """

    weight: float
    """λ of the image-free term; 0 is greedy decoding."""
    description: BankedDescription
    switches: int
    """Tokens at which the contrast preferred another token than the draft's."""
    drafts: tuple[int, ...]
    """The drafts that it waited for, one after the other; indices in `BankedQuestion.drafts`."""
    wasted: tuple[int, ...]
    """The drafts that it started ahead in vain; indices in `BankedQuestion.drafts`."""
    verified: tuple[int, ...]
    """The image-free scoring passes that it needed; indices in `BankedQuestion.verified`."""
    chains: tuple[BankedChain, ...]
    """By fork: 0 is greedy, the others are sampled; none where the description is unusable."""

    @property
    def rounds(self) -> int:
        """Drafts that it waited for."""
        return len(self.drafts)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "weight": self.weight,
            "description": self.description.to_json(),
            "switches": self.switches,
            "drafts": list(self.drafts),
            "wasted": list(self.wasted),
            "verified": list(self.verified),
            "chains": [chain.to_json() for chain in self.chains],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> BankedDecoded:
        """Return the inverse of `to_json`, up to rounding.

        Raises:
            TypeError, KeyError, ValueError: the data are no such record.
        """
        fields = dict(record)
        fields |= {name: tuple(map(int, fields[name])) for name in ("drafts", "wasted", "verified")}
        fields |= {
            "description": BankedDescription.from_json(fields["description"]),
            "chains": tuple(BankedChain.from_json(entry) for entry in fields["chains"]),
        }
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class BankedTrajectories:
    """Whole trajectories at a further temperature, for methods that only vote."""

    descriptions: tuple[BankedDescription, ...]
    chains: tuple[BankedChain, ...]
    """One chain of every usable description, in order."""
    plain_fallback: BankedChain | None = None
    """Plain generation, where no description is usable."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "descriptions": [description.to_json() for description in self.descriptions],
            "chains": [chain.to_json() for chain in self.chains],
            "plain_fallback": self.plain_fallback.to_json() if self.plain_fallback else None,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> BankedTrajectories:
        """Return the inverse of `to_json`, up to rounding.

        Raises:
            TypeError, KeyError, ValueError: the data are no such record.
        """
        fields = dict(record)
        fallback = fields["plain_fallback"]
        fields |= {
            "descriptions": tuple(BankedDescription.from_json(entry) for entry in fields["descriptions"]),
            "chains": tuple(BankedChain.from_json(entry) for entry in fields["chains"]),
            "plain_fallback": BankedChain.from_json(fallback) if fallback else None,
        }
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class BankedQuestion:
    """All samples of one question."""

    key: str
    """The question's key, unique within its data set."""
    data: str
    """The data set's name."""
    family: str
    truth: str
    """Empty: the question was unlabelled when it was sampled, and none of its chains counts as right."""
    clusters: tuple[str, ...]
    """The clusters that are resampled together: the scene first, then its glyphs."""
    descriptions: tuple[BankedDescription, ...]
    chains: tuple[BankedChain, ...]
    """Every fork of every usable description, in order."""
    greedy: tuple[BankedDescription, BankedChain | None]
    """One trajectory at temperature 0; no chain where its description is unusable."""
    plain_fallback: BankedChain | None = None
    """Plain generation, where none of `descriptions`, or none of `decoded`, is usable."""
    question: str = ""
    """The question's text, verbatim."""
    content: str = ""
    """`mirl_core.tasks.content.content_digest` of the question that was sampled; empty: an earlier version's
    record, whose pictures are not known."""
    decoded: tuple[BankedDecoded, ...] = ()
    """The decoded descriptions, by ascending λ."""
    drafts: tuple[int, ...] = ()
    """Tokens of each draft of `decoded`."""
    verified: tuple[int, ...] = ()
    """Tokens of each image-free scoring pass of `decoded`."""
    at_temperatures: Mapping[str, BankedTrajectories] = field(default_factory=dict)
    """Trajectories at the plan's further temperatures, by their `temperature_key`."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON; what the plan doesn't sample is left out."""
        description, chain = self.greedy
        record: dict[str, Any] = {
            "key": self.key,
            "data": self.data,
            "family": self.family,
            "question": self.question,
            **({"content": self.content} if self.content else {}),
            "truth": self.truth,
            "clusters": list(self.clusters),
            "descriptions": [description.to_json() for description in self.descriptions],
            "chains": [chain.to_json() for chain in self.chains],
            "greedy": [description.to_json(), chain.to_json() if chain else None],
            "plain_fallback": self.plain_fallback.to_json() if self.plain_fallback else None,
        }
        if self.decoded:
            record |= {
                "decoded": [decoded.to_json() for decoded in self.decoded],
                "drafts": list(self.drafts),
                "verified": list(self.verified),
            }
        if self.at_temperatures:
            record["at_temperatures"] = {
                key: trajectories.to_json() for key, trajectories in self.at_temperatures.items()
            }
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> BankedQuestion:
        """Return the inverse of `to_json`, up to rounding.

        Raises:
            TypeError, KeyError, ValueError: the data are no such record.
        """
        fields = dict(record)
        description, chain = fields["greedy"]
        fallback = fields["plain_fallback"]
        fields |= {
            "clusters": tuple(fields["clusters"]),
            "descriptions": tuple(BankedDescription.from_json(entry) for entry in fields["descriptions"]),
            "chains": tuple(BankedChain.from_json(entry) for entry in fields["chains"]),
            "greedy": (
                BankedDescription.from_json(description),
                BankedChain.from_json(chain) if chain else None,
            ),
            "plain_fallback": BankedChain.from_json(fallback) if fallback else None,
            # Lines of earlier versions lack the rest.
            "decoded": tuple(BankedDecoded.from_json(entry) for entry in fields.get("decoded", ())),
            "drafts": tuple(map(int, fields.get("drafts", ()))),
            "verified": tuple(map(int, fields.get("verified", ()))),
            "at_temperatures": {
                key: BankedTrajectories.from_json(entry)
                for key, entry in fields.get("at_temperatures", {}).items()
            },
        }
        return cls(**fields)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def _rounded_one(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
