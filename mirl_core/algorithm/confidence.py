"""How sure an answer is: the vote's share, or the probability of being right that a calibration makes of it.

Chains of one image's kept descriptions agree more often than they are right, because those descriptions
resemble each other. How far they do shows in what was sampled anyway: where a model is sure, it says the same
again and again. So

    p(right) = 1 / (1 + exp(−(a + b · vote share + c · distinct share))),

which is Platt scaling (Platt 1999, "Probabilistic Outputs for Support Vector Machines") with two features in
place of one. `mirl-eval calibrate` fits a, b and c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.types import Description

__all__ = ["calibration_for", "distinct_share", "probability", "reported"]

# What leaves the worth of a vote as it is. The server bounds every request's tokens, far above what it takes;
# a deadline that did cut the vote is the pipeline's to tell.
NEUTRAL = frozenset({"timeout", "max_total_tokens", "token_mi"})
_USABLE = (None, "gate", "duplicate")


def probability(calibration: Calibration, share: float, distinct: float) -> float:
    """The probability that the winner is right; both shares lie in 0..1."""
    logit = calibration.intercept + calibration.vote_share * share + calibration.distinct_share * distinct
    # Beyond this a float is 0 or 1, and nothing here is certain.
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))


def distinct_share(descriptions: Sequence[Description]) -> float | None:
    """Distinct contents (by token ids) per usable description, 0 to 1; None where none is usable.

    The same before and after the gate.
    """
    contents = [one.token_ids[: one.content_tokens] for one in descriptions if one.reason in _USABLE]
    return len(set(contents)) / len(contents) if contents else None


def calibration_for(
    settings: ModelSettings, options: MIRLOptions, sampling: Sampling | None = None
) -> Calibration | None:
    """The model's calibration where it holds: options and distribution are those it was fitted under.

    Args:
        sampling: None where it is the model's own.
    """
    if options.model_dump(exclude=set(NEUTRAL)) != settings.options.model_dump(exclude=set(NEUTRAL)):
        return None
    if sampling is not None:
        own = Sampling(sampling.max_tokens, settings.temperature)
        # These bound a sample or repeat it, and leave its distribution as it is.
        same = replace(
            own,
            stop=sampling.stop,
            seed=sampling.seed,
            alternatives=sampling.alternatives,
            top_logprobs=sampling.top_logprobs,
        )
        if sampling != same:
            return None
    return settings.calibration


def reported(
    share: float | None, descriptions: Sequence[Description], calibration: Calibration | None
) -> tuple[float | None, bool]:
    """The confidence that is told, and whether it is calibrated.

    Args:
        share: of the vote, 0 to 1; None where nothing voted, and then there is no confidence.
        calibration: None for the plain share, which is also what it stays where no description was usable.
    """
    distinct = None if share is None or calibration is None else distinct_share(descriptions)
    if share is None or calibration is None or distinct is None:
        return share, False
    return probability(calibration, share, distinct), True
