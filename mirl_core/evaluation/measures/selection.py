"""Quality of a gate's score: whether it picks right descriptions, follows length, and changes answers.

These figures involve no vote: they measure score and description by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mirl_core.algorithm.mi.pointwise import token_mi
from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion
from mirl_core.tasks.resampling import Estimate, Resampling

__all__ = ["WEIGHTS", "causality", "faithfulness", "length_correlation", "selection_quality", "within_auroc"]

Array = npt.NDArray[np.float64]
Normalize = Literal["token", "sum"]
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Values of λ at which the score is measured."""


def within_auroc(scores: Array, right: npt.NDArray[np.bool_]) -> Array | None:
    """Return the chance that a right description scores above a wrong one, ties half: [weights].

    The Mann-Whitney U by ranks; None where the question's descriptions are all right or all wrong.

    Args:
        scores: [weights, descriptions].
        right: [descriptions].
    """
    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return None
    ranks: Array = _stats().rankdata(scores, axis=1)[:, right].sum(axis=1)
    areas: Array = (ranks - good * (good + 1) / 2) / (good * bad)
    return areas


def selection_quality(
    questions: Sequence[BankedQuestion], estimators: Sequence[str], weights: Sequence[float] = WEIGHTS
) -> list[dict[str, Any]]:
    """Return the mean within-question AUROC of the score, by estimator, normalisation and λ.

    The mean is over the questions with both right and wrong usable descriptions. Each row: `estimator`,
    `normalize`, `mi_weight`, `auroc`, `low`, `high`, `n`. Empty where the data set has no judge of
    descriptions.
    """
    mixed = [
        (question, usable, right)
        for question in questions
        for usable in (_usable(question),)
        for right in (np.array([description.right is True for description in usable], bool),)
        if right.any() and not right.all() and all(description.right is not None for description in usable)
    ]
    if not mixed:
        return []
    resampling = Resampling([question.clusters for question, _, _ in mixed])
    rows = []
    for estimator in estimators:
        tables = [_nats(usable, estimator, weights) for _, usable, _ in mixed]
        for normalize in ("token", "sum"):
            areas = [
                within_auroc(table / lengths if normalize == "token" else table, right)
                for (table, lengths), (_, _, right) in zip(tables, mixed, strict=True)
            ]
            columns = np.array([area for area in areas if area is not None])
            for column, weight in enumerate(weights):
                estimate = resampling.bounded(columns[:, column], 0.0, 1.0)
                rows.append(
                    {
                        "estimator": estimator,
                        "normalize": normalize,
                        "mi_weight": weight,
                        "auroc": estimate.mean,
                        "low": estimate.low,
                        "high": estimate.high,
                        "n": estimate.n,
                    }
                )
    return rows


def length_correlation(
    questions: Sequence[BankedQuestion], estimators: Sequence[str]
) -> list[dict[str, Any]]:
    """Return Spearman's correlation of MI (λ = 1) and of confidence (λ = 0) with content length.

    Rows: `estimator`, `normalize`, `mi_weight`, `overall` (over all usable descriptions), `within` (mean over
    the questions in which both vary; None where there are none). A gate whose score follows length chooses by
    length.
    """
    rows: list[dict[str, Any]] = []
    for estimator in estimators:
        weights = (0.0, 1.0) if estimator == estimators[0] else (1.0,)
        tables = [_nats(usable, estimator, weights) for q in questions if (usable := _usable(q))]
        for row, weight in enumerate(weights):
            for normalize, scaled in _SCALES.items():
                pairs = [(scaled(table[row], lengths), lengths) for table, lengths in tables]
                inside = [r for score, lengths in pairs if (r := _spearman(score, lengths)) is not None]
                joined = [np.concatenate(column) for column in zip(*pairs, strict=True)] if pairs else []
                rows.append(
                    {
                        "estimator": estimator,
                        "normalize": normalize,
                        "mi_weight": weight,
                        "overall": _spearman(*joined) if joined else None,
                        "within": float(np.mean(inside)) if inside else None,
                    }
                )
    return rows


def causality(questions: Sequence[BankedQuestion]) -> dict[str, Any] | None:
    """Return how far the banked chains' answers depend on their descriptions: the bound of a gate's gain.

    Share of right answers after right and after wrong descriptions (means over questions that have both, so
    that easy questions don't pass for good descriptions), with the paired difference. None where the data set
    has no judge of descriptions. The sharper measure, swapping in a wrong description, needs the model.
    """
    rights, wrongs, clusters = [], [], []
    described = 0.0
    total = 0
    for question in questions:
        after = _answers_after(question)
        if after is None:
            return None
        usable = _usable(question)
        described += sum(description.right is True for description in usable)
        total += len(usable)
        if after[True] and after[False]:
            rights.append(float(np.mean(after[True])))
            wrongs.append(float(np.mean(after[False])))
            clusters.append(question.clusters)
    if not rights:
        return None
    resampling = Resampling(clusters)
    return {
        "descriptions_right": described / total,
        "n": len(rights),
        **_bounds("after_right", resampling.proportion(rights)),
        **_bounds("after_wrong", resampling.proportion(wrongs)),
        **_bounds("difference", resampling.difference(rights, wrongs)),
    }


def faithfulness(questions: Sequence[BankedQuestion]) -> dict[str, dict[str, float]] | None:
    """Return P(chain right | description right) and P(chain right | description wrong) over banked chains.

    `after_right` and `after_wrong`, each where there are such chains: `share`, `low`, `high`, `n` (chains).
    Intervals are over questions and their shared clusters, not over chains. None where the data set has no
    judge of descriptions, or the bank has no chain.
    """
    groups = [(question.clusters or (question.key,), _answers_after(question)) for question in questions]
    shares = {}
    for name, description_right in (("after_right", True), ("after_wrong", False)):
        hits: list[float] = []
        clusters: list[tuple[str, ...]] = []
        for names, after in groups:
            if after is None:
                return None
            hits += map(float, after[description_right])
            clusters += [names] * len(after[description_right])
        if hits:
            estimate = Resampling(clusters).proportion(hits)
            shares[name] = {
                "share": estimate.mean,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
            }
    return shares or None


_SCALES: dict[Normalize, Callable[[Array, Array], Array]] = {
    "token": lambda nats, lengths: nats / lengths,
    "sum": lambda nats, lengths: nats,
}


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _usable(question: BankedQuestion) -> list[BankedDescription]:
    return [description for description in question.descriptions if description.reason is None]


def _answers_after(question: BankedQuestion) -> dict[bool, list[bool]] | None:
    """Return whether each chain's answer is right, by whether its description is; None without a judge."""
    usable = {
        index: description
        for index, description in enumerate(question.descriptions)
        if description.reason is None
    }
    if any(description.right is None for description in usable.values()):
        return None
    after: dict[bool, list[bool]] = {True: [], False: []}
    for chain in question.chains:
        if chain.description in usable:
            after[bool(usable[chain.description].right)].append(chain.right)
    return after


def _nats(
    descriptions: Sequence[BankedDescription], estimator: str, weights: Sequence[float]
) -> tuple[Array, Array]:
    """Return MI [weights, descriptions] in nats, and content lengths [descriptions] in tokens."""
    table = np.array(
        [
            [
                token_mi(description.logprobs, description.marginals[estimator], weight).sum()
                for description in descriptions
            ]
            for weight in weights
        ]
    )
    return table, np.array([max(description.content_tokens, 1) for description in descriptions], np.float64)


def _spearman(a: Array, b: Array) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(_stats().spearmanr(a, b).statistic)


def _stats() -> Any:
    """Import scipy.stats late: it takes a second."""
    from scipy import stats  # type: ignore[import-untyped]

    return stats
