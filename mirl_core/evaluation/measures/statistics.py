"""Figures of methods on a data set: accuracy, cost, calibration, paired comparisons, needed sample size.

Draws of one question are averaged first, and the questions are then resampled over scenes and glyphs
(`resampling.py`): replays of one bank line are no independent cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from mirl_core.evaluation.measures.outcomes import Outcomes
from mirl_core.tasks.resampling import Estimate, Resampling

__all__ = [
    "Bin",
    "Comparison",
    "McNemar",
    "compare",
    "detectable_difference",
    "expected_error",
    "figures",
    "holm",
    "mcnemar",
    "needed_questions",
    "reliability",
    "wilson",
]

Array = npt.NDArray[np.float64]
_PRECISION = 1e-6


def figures(outcomes: Outcomes, resampling: Resampling) -> dict[str, Any]:
    """Return one method's figures on one data set, in the form of `summary.json`.

    Shares lie in 0..1, `low` and `high` bound the accuracy's 95% interval; tokens, trajectories and seconds
    (None for replays) are means a question.
    """
    accuracy = resampling.proportion(outcomes.accuracy)
    tokens = resampling.mean(outcomes.tokens)
    bins = reliability(outcomes.confidence, outcomes.right)
    return {
        "accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
        "n": accuracy.n,
        "draws": outcomes.right.shape[1],
        "generated_tokens": _mean(outcomes.generated_tokens),
        "scored_tokens": _mean(outcomes.scored_tokens),
        "tokens": tokens.mean,
        "tokens_low": tokens.low,
        "tokens_high": tokens.high,
        "complete_trajectories": _mean(outcomes.trajectories),
        "answered": _mean(outcomes.answered),
        "confidence": _mean(outcomes.confidence),
        "ece": expected_error(bins),
        "engine_seconds": _mean(outcomes.seconds),
    }


@dataclass(frozen=True, slots=True)
class McNemar:
    """Result of McNemar's exact test of two methods' answers to the same questions."""

    only_a: int
    """Questions that only method a answers right."""
    only_b: int
    p: float
    """Two-sided: probability of a split at least as uneven if both methods are equally good."""


def mcnemar(a: Array, b: Array) -> McNemar:
    """Return McNemar's exact test on right (1) and wrong (0) [questions].

    Under the null hypothesis the discordant questions are fair coin flips. The test takes questions for
    independent, which scenes that share glyphs are not: quote the interval of the difference, resampled over
    both.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    only_a, only_b = int(((a > 0) & (b == 0)).sum()), int(((a == 0) & (b > 0)).sum())
    discordant = only_a + only_b
    return McNemar(only_a, only_b, float(binomtest(only_a, discordant).pvalue) if discordant else 1.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Method a against method b on the same questions with the same draws."""

    difference: Estimate
    """Accuracy of a minus that of b, share."""
    tokens_ratio: Estimate
    """Generated plus scored tokens of a over those of b."""
    mcnemar: McNemar
    """On the first draw."""
    discordance: float
    """Share of questions that exactly one of the two answers right, first draw."""
    design_effect: float
    """Variance of the difference over its variance with independent questions; at least 1."""
    p: float
    """Of no difference, two-sided, from the bootstrap over scenes and glyphs."""

    def needed(self, difference: float) -> int | None:
        """Return the questions that find `difference` (share) with 80% power; see `needed_questions`."""
        return needed_questions(self.discordance, difference, self.design_effect)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "difference": self.difference.mean,
            "low": self.difference.low,
            "high": self.difference.high,
            "n": self.difference.n,
            "tokens_ratio": self.tokens_ratio.mean,
            "tokens_ratio_low": self.tokens_ratio.low,
            "tokens_ratio_high": self.tokens_ratio.high,
            "only_a": self.mcnemar.only_a,
            "only_b": self.mcnemar.only_b,
            "mcnemar_p": self.mcnemar.p,
            "bootstrap_p": self.p,
            "discordance": self.discordance,
            "design_effect": self.design_effect,
            "needed_for_2_points": self.needed(0.02),
        }


def compare(a: Outcomes, b: Outcomes, resampling: Resampling) -> Comparison:
    """Compare a with b, both on the questions of `resampling`, in its order.

    Raises:
        ValueError: a and b have different questions.
    """
    if a.keys != b.keys:
        raise ValueError("a paired comparison needs the same questions in the same order")
    first = mcnemar(a.right[:, 0], b.right[:, 0])
    gap = a.accuracy - b.accuracy
    simple = float(gap.var()) / max(len(gap), 1)
    effect = float(resampling.deviations(gap).var()) / simple if simple > 0 else 1.0
    return Comparison(
        resampling.difference(a.accuracy, b.accuracy),
        _ratio(a.tokens, b.tokens, resampling),
        first,
        (first.only_a + first.only_b) / max(len(gap), 1),
        max(1.0, effect),
        resampling.difference_p(a.accuracy, b.accuracy),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values [tests] adjusted for their number, in their order.

    Holm (1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
    6): the k-th smallest of m times m - k + 1, at least its predecessor, at most 1. Whatever the tests share,
    the chance that any true null hypothesis has an adjusted p-value of at most alpha is at most alpha.
    """
    adjusted = [1.0] * len(p_values)
    least = 0.0
    for rank, test in enumerate(sorted(range(len(p_values)), key=lambda test: p_values[test])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[test]))
        adjusted[test] = least
    return adjusted


def needed_questions(
    discordance: float,
    difference: float,
    design_effect: float = 1.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int | None:
    """Return the questions that McNemar's test needs to find `difference` (share), two-sided at `alpha`.

    n = (z_(1-alpha/2) sqrt(p) + z_power sqrt(p - d^2))^2 / d^2 with p the share of discordant questions and d
    the difference (Connor 1987, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43), times the design effect. None where p < d: such a difference needs more
    discordant questions than there are.
    """
    if difference <= 0 or discordance < difference:
        return None
    normal = NormalDist()
    root = normal.inv_cdf(1 - alpha / 2) * math.sqrt(discordance)
    root += normal.inv_cdf(power) * math.sqrt(discordance - difference**2)
    return math.ceil(design_effect * (root / difference) ** 2)


def detectable_difference(discordance: float, n: int, design_effect: float = 1.0) -> float | None:
    """Return the least difference (share) for which `needed_questions` needs no more than `n` questions.

    A difference above `discordance` brings as many discordant questions as it needs. None where even a
    difference of 1 needs more.
    """

    def enough(difference: float) -> bool:
        needed = needed_questions(max(discordance, difference), difference, design_effect)
        return needed is not None and needed <= n

    if not enough(1.0):
        return None
    low, high = 0.0, 1.0
    # Larger differences need fewer questions.
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers with reported confidences in one bin."""

    said: float
    """Their mean confidence."""
    right: float
    """Share of right answers."""
    low: float
    high: float
    """95% Wilson interval of `right`, each question counted once, whatever its draws in the bin."""
    n: int
    """Answers: questions x draws."""
    questions: int


def reliability(confidence: Array, right: Array, bins: int = 10) -> list[Bin]:
    """Return equal bins of the confidence without the empty ones.

    Args:
        confidence: [questions, draws]; NaN: no confidence.
        right: [questions, draws].
        bins: number of bins over 0 to 1.
    """
    questions, places = np.nonzero(np.isfinite(confidence))
    reported, hit = confidence[questions, places], right[questions, places]
    # A share of exactly 0.3 belongs to the bin that begins at 0.3, whatever its last bit.
    bin_of = np.minimum(np.floor(reported * bins + 1e-9).astype(int), bins - 1)
    filled = []
    for number in np.unique(bin_of):
        here = bin_of == number
        distinct = len(np.unique(questions[here]))
        low, high = wilson(float(hit[here].mean()), distinct)
        filled.append(
            Bin(float(reported[here].mean()), float(hit[here].mean()), low, high, int(here.sum()), distinct)
        )
    return filled


def expected_error(bins: Sequence[Bin]) -> float | None:
    """Return the ECE: mean distance of confidence and accuracy over the bins, weighed by answers; share.

    Naeini, Cooper & Hauskrecht (2015, AAAI). None without any confidence.
    """
    total = sum(bin_.n for bin_ in bins)
    return sum(bin_.n * abs(bin_.said - bin_.right) for bin_ in bins) / total if total else None


def _ratio(a: Array, b: Array, resampling: Resampling) -> Estimate:
    """Return the ratio of two means with its linearised interval: R + draws of mean(a - R b) / mean(b).

    Nothing bounds the ratio of questions that the sample lacks. An interval of no width stands only where the
    ratio is constant: the same in all of two scenes or more, or the same tokens. Else its bounds are NaN.
    """
    below = float(b.mean()) if len(b) else 0.0
    if below <= 0:
        return Estimate(math.nan, math.nan, math.nan, len(b))
    ratio = float(a.mean()) / below
    moved = resampling.mean((a - ratio * b) / below)
    if moved.high - moved.low > _PRECISION * ratio:
        return Estimate(ratio, ratio + moved.low, ratio + moved.high, len(b))
    constant = np.allclose(a, ratio * b) and (resampling.independent > 1 or np.array_equal(a, b))
    bound = ratio if constant else math.nan
    return Estimate(ratio, bound, bound, len(b))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of `n` independent cases (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _mean(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
