"""Fit of a model's `Calibration` on votes of dev questions, replayed under its options.

Logistic regression by maximum likelihood, with Platt's targets (Platt 1999, section 2.2): (N₊ + 1) / (N₊ + 2)
for a right vote and 1 / (N₋ + 2) for a wrong one. They keep the weights finite where the shares separate
right from wrong perfectly. N₊ and N₋ count questions, not draws, which are no independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mirl_core.algorithm.confidence import probability, traits_of
from mirl_core.config import Calibration, ModelSettings
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.measures.statistics import expected_error, reliability
from mirl_core.evaluation.methods import parse_methods, replay_draws
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.steered import Steered

__all__ = ["FEWEST", "CalibrationRow", "Fitted", "Votes", "fit", "votes_of"]

Array = npt.NDArray[np.float64]
FEWEST = 50
"""Fewest questions for a fit: with fewer, three weights are noise."""
UNFAMILIAR = 0.025
"""Share of the calibration's own requests beyond each bound on a familiar request's traits. There
are three: at most 7.5% do without a calibrated confidence, fewer where some requests break several."""


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Replayed votes. Arrays are [questions, draws]; NaN where nothing voted."""

    data: tuple[str, ...]
    """Each question's data set."""
    share: Array
    distinct: Array
    """Distinct descriptions per usable one."""
    logprob: Array
    """Mean log p(d | I, q) per token of the usable descriptions, nats."""
    mi: Array
    """Their mean MI per token, nats; NaN where descriptions are not scored."""
    unusable: Array
    """Share of unusable descriptions."""
    right: Array

    @property
    def voted(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.share)


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Confidence and accuracy of a data set's votes; shares, before and after calibration."""

    data: str
    votes: int
    right: float
    share: float
    """Mean vote share: the confidence before calibration."""
    share_error: float
    """Its expected calibration error."""
    confidence: float
    """Mean confidence after calibration."""
    confidence_error: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of a fit."""

    calibration: Calibration | None
    left_out: str = ""
    """Reason for a missing calibration, in a sentence."""
    rows: tuple[CalibrationRow, ...] = ()
    """One row a data set, and one for all where there are several."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        calibration = self.calibration.model_dump() if self.calibration else None
        return {
            "calibration": calibration,
            "left_out": self.left_out,
            "rows": [asdict(row) for row in self.rows],
        }


def votes_of(questions: Sequence[BankedQuestion], settings: ModelSettings, count: int, seed: int) -> Votes:
    """Replay `count` draws of each question under the model's options.

    Raises:
        ConfigError: the bank lacks samples or scores that the options need.
    """
    (method,) = parse_methods("mirl", settings.model_copy(update={"calibration": None}))
    assert isinstance(method, Gated | Steered), "a server answers by it"
    share, distinct, logprob, mi, unusable, right = (
        np.full((len(questions), count), np.nan) for _ in range(6)
    )
    for row, question in enumerate(questions):
        for column, draw in enumerate(replay_draws(question, count, seed)):
            traits = traits_of(method.described(question, draw))
            played = method.play(question, draw)
            # A fallback is one chain and no vote.
            if traits is not None and played.confidence is not None:
                share[row, column] = played.confidence
                distinct[row, column] = traits.distinct
                logprob[row, column] = traits.logprob
                mi[row, column] = np.nan if traits.mi is None else traits.mi
                unusable[row, column] = traits.unusable
                right[row, column] = played.right
    data = tuple(question.data for question in questions)
    return Votes(data, share, distinct, logprob, mi, unusable, right)


def fit(votes: Votes) -> Fitted:
    """Fit the calibration of these votes, with weights rounded to 2 decimals.

    The bounds on a familiar request's traits are percentiles of these requests (`UNFAMILIAR`).
    """
    voted = votes.voted
    questions = int(voted.any(axis=1).sum())
    hits = votes.right[voted]
    if not questions:
        return Fitted(None, "no question was voted on, so there is no share to calibrate")
    if questions < FEWEST:
        return Fitted(None, f"{questions} voted questions are too few; it takes {FEWEST}")
    if hits.all() or not hits.any():
        outcome = "right" if hits.all() else "wrong"
        return Fitted(None, f"every vote was {outcome}, so nothing tells right from wrong")
    # A question counts once, whatever the number of its draws with a vote.
    weights = (voted / np.maximum(voted.sum(axis=1, keepdims=True), 1))[voted]
    features = np.stack([np.ones(len(hits)), votes.share[voted], votes.distinct[voted]], axis=1)
    intercept, share, distinct = (
        round(float(coefficient), 2) for coefficient in _logistic(features, hits, weights)
    )
    calibration = Calibration(
        intercept=intercept,
        vote_share=share,
        distinct_share=distinct,
        least_logprob=_least(votes.logprob[voted], weights),
        least_mi=_least(votes.mi[voted], weights),
        most_unusable=_most(votes.unusable[voted], weights),
    )
    return Fitted(calibration, rows=_rows(votes, calibration))


def _least(values: Array, weights: Array) -> float | None:
    """Return the value that all but the share `UNFAMILIAR` reach, rounded down; None where some are NaN."""
    if np.isnan(values).any():
        return None
    order = np.argsort(values)
    reached = np.searchsorted(np.cumsum(weights[order]), UNFAMILIAR * weights.sum())
    return math.floor(100 * float(values[order][min(reached, len(order) - 1)])) / 100


def _most(values: Array, weights: Array) -> float | None:
    """Return the value that all but the share `UNFAMILIAR` keep below, rounded up."""
    least = _least(-values, weights)
    return None if least is None else -least + 0.0


def _logistic(features: Array, hits: Array, weights: Array) -> Array:
    """Return the weights of the columns of `features` [votes, columns] that make `hits` likeliest."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    right = float(weights @ hits)
    wrong = float(weights.sum()) - right
    targets = np.where(hits > 0, (right + 1) / (right + 2), 1 / (wrong + 2))
    shares = weights / weights.sum()

    def loss(coefficients: Array) -> tuple[float, Array]:
        logits = features @ coefficients
        slope = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - targets
        return float(shares @ (np.logaddexp(0, logits) - targets * logits)), features.T @ (shares * slope)

    return np.asarray(minimize(loss, np.zeros(features.shape[1]), jac=True, method="BFGS").x, np.float64)


def _rows(votes: Votes, calibration: Calibration) -> tuple[CalibrationRow, ...]:
    calibrated = np.full_like(votes.share, np.nan)
    for cell in zip(*np.nonzero(votes.voted), strict=True):
        calibrated[cell] = probability(calibration, float(votes.share[cell]), float(votes.distinct[cell]))
    names = list(dict.fromkeys(votes.data))
    chosen = [(name, np.array([data == name for data in votes.data])) for name in names]
    if len(names) > 1:
        chosen.append(("all", np.ones(len(votes.data), bool)))
    return tuple(
        CalibrationRow(
            name,
            int(votes.voted[here].sum()),
            float(np.nanmean(votes.right[here])),
            float(np.nanmean(votes.share[here])),
            _error(votes.share[here], votes.right[here]),
            float(np.nanmean(calibrated[here])),
            _error(calibrated[here], votes.right[here]),
        )
        for name, here in chosen
        if votes.voted[here].any()
    )


def _error(confidence: Array, right: Array) -> float:
    return expected_error(reliability(confidence, right)) or 0.0
