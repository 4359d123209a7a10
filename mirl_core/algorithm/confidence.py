"""Confidence of an answer: the vote share, or the calibrated probability that the answer is right.

Chains of one image's kept descriptions agree more often than they are right, because those descriptions
resemble each other. The share of distinct descriptions among the samples shows how far: a model that is sure
repeats itself. So

    p(right) = 1 / (1 + exp(−(a + b · vote share + c · distinct share))),

which is Platt scaling (Platt 1999, "Probabilistic Outputs for Support Vector Machines") with two features
instead of one. `mirl-eval calibrate` fits a, b and c.

The fit holds for requests like those that it was made on. Descriptions of a foreign picture, or for a
foreign question, are less likely under the model that samples them: it is unsure of every word, however much
its chains agree. So a confidence counts as calibrated only where the descriptions' log-probability per token
is not below that of nearly all calibration requests (`Calibration.least_logprob`). `docs/evaluation.md` has
the error rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.types import Description

__all__ = [
    "Confidence",
    "calibration_for",
    "description_logprob",
    "distinct_share",
    "probability",
    "reported",
    "why_uncalibrated",
]

NEUTRAL = frozenset({"timeout", "max_total_tokens", "token_mi", "preset"})
"""Options that don't change a vote's worth: a preset's name adds nothing to its options. The server's limit
on tokens lies far above what a request takes; the pipeline drops the calibration where a deadline did cut the
vote."""
_USABLE = (None, "gate", "duplicate")

NO_CALIBRATION = "the model's mirl.json has no calibration"
OTHER_REQUEST = "it was fitted for other options or sampling parameters than this request's"
NO_VOTE = "there was no vote"
NO_DESCRIPTION = "no description was usable"
UNFAMILIAR = (
    "the descriptions are less likely than those it was fitted on: the picture or the question may be unlike "
    "what the model knows"
)


@dataclass(frozen=True, slots=True)
class Confidence:
    """The confidence to report."""

    value: float | None
    """The probability that the answer is right where `reason` is None, or else the winner's share of the
    vote, 0 to 1; None: there was no vote."""
    reason: str | None
    """Why no calibration applies, in words; None where one does."""


def probability(calibration: Calibration, share: float, distinct: float) -> float:
    """Return the probability that the winner is right.

    Args:
        share: the winner's share of the vote, 0 to 1.
        distinct: share of distinct descriptions, 0 to 1.
    """
    logit = calibration.intercept + calibration.vote_share * share + calibration.distinct_share * distinct
    # Beyond ±30 the result rounds to 0 or 1, and no answer is certain.
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))


def distinct_share(descriptions: Sequence[Description]) -> float | None:
    """Return distinct contents (by token ids) per usable description, 0 to 1; None where none is usable.

    The gate does not change it.
    """
    contents = [
        description.token_ids[: description.content_tokens]
        for description in descriptions
        if description.reason in _USABLE
    ]
    return len(set(contents)) / len(contents) if contents else None


def description_logprob(descriptions: Sequence[Description]) -> float | None:
    """Return the mean over usable descriptions of log p(d | I, q) per token, nats; None without any."""
    values = [
        description.logprob / max(description.content_tokens, 1)
        for description in descriptions
        if description.reason in _USABLE
    ]
    return sum(values) / len(values) if values else None


def why_uncalibrated(
    settings: ModelSettings, options: MIRLOptions, sampling: Sampling | None = None
) -> str | None:
    """Return why the model's calibration does not hold for a request, in words; None where it does.

    It holds under the options and the sampling that it was fitted for.

    Args:
        sampling: of the request; None: the model's defaults.
    """
    if settings.calibration is None:
        return NO_CALIBRATION
    if options.model_dump(exclude=set(NEUTRAL)) != settings.options.model_dump(exclude=set(NEUTRAL)):
        return OTHER_REQUEST
    if sampling is not None:
        # These fields bound, repeat or describe a sample; they don't change its distribution.
        fitted = replace(
            Sampling(sampling.max_tokens, settings.temperature),
            stop=sampling.stop,
            seed=sampling.seed,
            first_branch=sampling.first_branch,
            alternatives=sampling.alternatives,
            top_logprobs=sampling.top_logprobs,
        )
        if sampling != fitted:
            return OTHER_REQUEST
    return None


def calibration_for(
    settings: ModelSettings, options: MIRLOptions, sampling: Sampling | None = None
) -> Calibration | None:
    """Return the model's calibration where it holds; see `why_uncalibrated`."""
    return settings.calibration if why_uncalibrated(settings, options, sampling) is None else None


def reported(
    share: float | None,
    descriptions: Sequence[Description],
    calibration: Calibration | None,
    reason: str = NO_CALIBRATION,
) -> Confidence:
    """Return the confidence to report.

    Args:
        share: the winner's share of the vote, 0 to 1; None: there was no vote.
        calibration: None: the share itself is reported.
        reason: why there is no calibration.
    """
    if share is None:
        return Confidence(None, NO_VOTE)
    if calibration is None:
        return Confidence(share, reason)
    distinct, logprob = distinct_share(descriptions), description_logprob(descriptions)
    if distinct is None or logprob is None:
        return Confidence(share, NO_DESCRIPTION)
    if calibration.least_logprob is not None and logprob < calibration.least_logprob:
        return Confidence(share, UNFAMILIAR)
    return Confidence(probability(calibration, share, distinct), None)
