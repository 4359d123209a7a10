"""Records of one question in the bank: enough to replay any gate, vote and stopping rule offline.

Nats and counts of tokens, no token ids and no text of chains: a line of 16 descriptions with 3 chains each
stays well under 40 kB. Log-probabilities are rounded to `DIGITS` decimals when they are written; the error,
at most 5e-5 nats a token, lies far below the difference of two descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_core.types import FinishReason

__all__ = ["DIGITS", "BankedChain", "BankedDescription", "BankedQuestion"]

DIGITS = 4
"""Decimals of a written log-probability."""


@dataclass(frozen=True, slots=True)
class BankedDescription:
    """One sampled description, scored under every estimator of the plan."""

    text: str
    tokens: int
    """Sampled tokens, closing tag included."""
    content_tokens: int
    reason: str | None
    """`truncated`, `empty`, `unparsable` (see `mirl_core.algorithm.segments.read_description`), or None."""
    logprobs: tuple[float, ...]
    """log p(d_t | d_<t, I, q) of the content tokens; nats."""
    marginals: Mapping[str, tuple[float, ...]]
    """Estimator → log p(d_t | d_<t, q) of the content tokens, nats; empty where `reason` is set."""
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
    """Index in `BankedQuestion.descriptions`; -1 for the greedy trajectory and for plain generation."""
    fork: int
    answer: str | None
    right: bool
    tokens: int
    finish_reason: FinishReason
    confidence: float | None
    """DeepConf (Fu et al. 2025): mean over the tokens of the trajectory, description and chain, of
    −1/20 Σ_j log P(j), j the 20 likeliest tokens; nats. None without tokens."""
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
class BankedQuestion:
    """All samples of one question."""

    key: str
    """The question's key, unique within its data set."""
    data: str
    """The data set's name."""
    family: str
    truth: str
    clusters: tuple[str, ...]
    """The clusters that are resampled together: the scene first, then its glyphs."""
    descriptions: tuple[BankedDescription, ...]
    chains: tuple[BankedChain, ...]
    """Every fork of every usable description, in order."""
    greedy: tuple[BankedDescription, BankedChain | None]
    """One trajectory at temperature 0; no chain where its description is unusable."""
    plain_fallback: BankedChain | None = None
    """Plain generation, where no description is usable."""
    question: str = ""
    """The question's text, verbatim."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        description, chain = self.greedy
        return {
            "key": self.key,
            "data": self.data,
            "family": self.family,
            "question": self.question,
            "truth": self.truth,
            "clusters": list(self.clusters),
            "descriptions": [description.to_json() for description in self.descriptions],
            "chains": [chain.to_json() for chain in self.chains],
            "greedy": [description.to_json(), chain.to_json() if chain else None],
            "plain_fallback": self.plain_fallback.to_json() if self.plain_fallback else None,
        }

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
        }
        return cls(**fields)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def _rounded_one(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
