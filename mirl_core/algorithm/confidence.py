"""Confidence of an answer: the vote share, or the calibrated probability that the answer is right.

Chains of one image's kept descriptions agree more often than they are right, because those descriptions
resemble each other. The share of distinct descriptions among the samples shows how far: a model that is sure
repeats itself. So

    p(right) = 1 / (1 + exp(−(a + b · vote share + c · distinct share))),

which is Platt scaling (Platt 1999, "Probabilistic Outputs for Support Vector Machines") with two features
instead of one. `mirl-eval calibrate` fits a, b and c.

The fit holds for requests like the calibration requests. Descriptions of a foreign picture, or for a foreign
question, are less likely under the model that samples them: it is unsure of every word, however much its
chains agree. They may also owe less to the picture, and more of them are unusable. So a confidence counts
as calibrated only where all three traits lie within the range of nearly all calibration requests
(`Calibration.least_logprob`, `least_mi`, `most_unusable`). `docs/evaluation.md` has the error rates.
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
    "Traits",
    "calibration_for",
    "is_familiar",
    "probability",
    "reported",
    "traits_of",
    "why_uncalibrated",
]

NEUTRAL = frozenset({"timeout", "max_total_tokens", "token_mi", "preset"})
"""Options that don't change a vote's worth: a preset's name adds nothing to its options. The server's limit
on tokens lies far above what a request takes; the pipeline drops the calibration where a deadline did cut the
vote."""

NO_CALIBRATION = "the model's mirl.json has no calibration"
OTHER_REQUEST = "it was fitted for other options or sampling parameters than this request's"
NO_VOTE = "there was no vote"
NO_DESCRIPTION = "no description was usable"
UNFAMILIAR = (
    "the descriptions are unlike those it was fitted on: the picture or the question may be unlike what the "
    "model knows"
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


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells a request's descriptions from those of other requests; means over usable ones."""

    distinct: float
    """Distinct contents (by token ids) per usable description, 0 to 1. The gate does not change it."""
    logprob: float
    """log p(d | I, q) per token, nats."""
    mi: float | None
    """MI per token, nats; None where descriptions are not scored."""
    unusable: float
    """Share of unusable descriptions, 0 to 1."""


def traits_of(descriptions: Sequence[Description]) -> Traits | None:
    """Return the traits of a request's descriptions; None where none is usable."""
    usable = [description for description in descriptions if description.usable]
    if not usable:
        return None
    contents = {description.token_ids[: description.content_tokens] for description in usable}
    logprobs = [description.logprob / max(description.content_tokens, 1) for description in usable]
    scored = [value for description in usable if (value := description.mi_per_token) is not None]
    return Traits(
        distinct=len(contents) / len(usable),
        logprob=sum(logprobs) / len(usable),
        mi=sum(scored) / len(scored) if scored else None,
        unusable=1 - len(usable) / len(descriptions),
    )


def is_familiar(traits: Traits, calibration: Calibration) -> bool:
    """Return whether traits lie within the range of the calibration's requests; an absent bound holds."""
    least_logprob, least_mi, most = calibration.least_logprob, calibration.least_mi, calibration.most_unusable
    return (
        (least_logprob is None or traits.logprob >= least_logprob)
        and (least_mi is None or traits.mi is None or traits.mi >= least_mi)
        and (most is None or traits.unusable <= most)
    )


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
    traits = traits_of(descriptions)
    if traits is None:
        return Confidence(share, NO_DESCRIPTION)
    if not is_familiar(traits, calibration):
        return Confidence(share, UNFAMILIAR)
    return Confidence(probability(calibration, share, traits.distinct), None)
