"""Confidence of an answer: the vote share, or the calibrated probability that the answer is right.

Chains of one image's kept descriptions agree more often than they are right, because those descriptions
resemble each other. The share of distinct descriptions among the samples shows how far: a model that is sure
repeats itself. So

    p(right) = 1 / (1 + exp(−(a + b · vote share + c · distinct share))),

which is Platt scaling (Platt 1999, "Probabilistic Outputs for Support Vector Machines") with two features
instead of one. `mirl-eval calibrate` fits a, b and c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.types import Description

__all__ = ["calibration_for", "distinct_share", "probability", "reported"]

NEUTRAL = frozenset({"timeout", "max_total_tokens", "token_mi", "preset"})
"""Options that don't change a vote's worth: a preset's name adds nothing to its options. The server's limit
on tokens lies far above what a request takes; the pipeline drops the calibration where a deadline did cut the
vote."""
_USABLE = (None, "gate", "duplicate")


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


def calibration_for(
    settings: ModelSettings, options: MIRLOptions, sampling: Sampling | None = None
) -> Calibration | None:
    """Return the model's calibration where it holds: under the options and sampling that it was fitted for.

    Args:
        sampling: of the request; None: the model's defaults.
    """
    if options.model_dump(exclude=set(NEUTRAL)) != settings.options.model_dump(exclude=set(NEUTRAL)):
        return None
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
            return None
    return settings.calibration


def reported(
    share: float | None, descriptions: Sequence[Description], calibration: Calibration | None
) -> tuple[float | None, bool]:
    """Return the confidence to report, and whether it is calibrated.

    Args:
        share: the winner's share of the vote, 0 to 1; None: there was no vote, and there is no confidence.
        calibration: None: the plain share is reported, as it is where no description was usable.
    """
    distinct = None if share is None or calibration is None else distinct_share(descriptions)
    if share is None or calibration is None or distinct is None:
        return share, False
    return probability(calibration, share, distinct), True
