"""What the bank's samples tell about a model: each figure with its 95% interval and the number of questions.

A description's chains are repeats of each other: all that differs is the sampling. Their answers are compared
by the relation by which chains vote (`mirl_core.algorithm.answers`). Chains without an answer are left out of
comparisons. A question counts once, whatever the number of its pairs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from mirl_core.algorithm import answers
from mirl_core.algorithm.answers import NormalizedAnswer
from mirl_core.algorithm.gates import GATES
from mirl_core.evaluation.advise.candidates import GREEDY, ORACLE, SAMPLE, VOTES
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.measures.outcomes import Outcomes
from mirl_core.evaluation.measures.selection import causality, within_auroc
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.tasks.resampling import Estimate, Resampling

__all__ = ["Measure", "label_free", "labelled", "slips"]

Unit = Literal["%", "points", ""]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure."""

    key: str
    meaning: str
    """What is measured, in a few words."""
    estimate: Estimate
    """A share for the units `%` and `points`."""
    unit: Unit
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {"meaning": self.meaning, "unit": self.unit, "note": self.note, **asdict(self.estimate)}


def label_free(
    questions: Sequence[BankedQuestion], rows: Sequence[Row], ranking: Gated
) -> dict[str, Measure]:
    """Return the figures that need no answers, by key; those without a question that shows them are left out.

    Args:
        questions: of the bank.
        rows: their replays, as `mirl_core.evaluation.methods.replay_bank.replay` returns them.
        ranking: the method whose ranks are measured.
    """
    reasons = Counter(description.reason for q in questions for description in q.descriptions)
    sampled = sum(reasons.values())
    unusable = ", ".join(
        f"{reason} {100 * count / sampled:.1f}"
        for reason, count in sorted(reasons.items(), key=str)
        if reason
    )
    most = max((len(q.descriptions) for q in questions), default=0)
    agreed = [(_mean(_repeats(q)), _mean(_across(q))) for q in questions]
    follows = [None if same is None or other is None else same - other for same, other in agreed]
    figures = [
        Measure(
            "unusable",
            "unusable descriptions",
            _share(questions, [_mean([d.reason is not None for d in q.descriptions]) for q in questions]),
            "%",
            unusable,
        ),
        Measure(
            "distinct",
            "distinct descriptions of a question",
            _mean_of(questions, [float(len(_texts(q))) for q in questions], 0, most),
            "",
            f"of {most}",
        ),
        Measure(
            "unanswered",
            "chains without an answer",
            _share(questions, [_mean([chain.answer is None for chain in q.chains]) for q in questions]),
            "%",
        ),
        Measure("slips", "repeated chains that disagree", slips(questions), "%"),
        Measure(
            "follows",
            "chains agree: same description - others",
            _mean_of(questions, follows),
            "points",
        ),
        Measure(
            "changed",
            "16 votes change the greedy answer",
            _share(questions, [_mean(_changed(row)) for row in rows]),
            "%",
        ),
        Measure(
            "agreement",
            "top-ranked agrees with the vote - random",
            _mean_of(questions, [_over_random(q, ranking, _with_the_vote(q)) for q in questions]),
            "points",
        ),
    ]
    return {measure.key: measure for measure in figures if measure.estimate.n}


def slips(questions: Sequence[BankedQuestion]) -> Estimate:
    """Return the share of the pairs of chains of one description that disagree; NaN where there is none."""
    agreed = [_mean(_repeats(question)) for question in questions]
    return _share(questions, [None if value is None else 1 - value for value in agreed])


def labelled(
    questions: Sequence[BankedQuestion], outcomes: Mapping[str, Outcomes], ranking: Gated
) -> dict[str, Measure]:
    """Return the figures that need answers, by key; those without a question that shows them are left out.

    Args:
        questions: of the bank; all have answers.
        outcomes: method → its replays on these questions.
        ranking: the method whose ranks are measured.
    """
    if not questions:
        return {}
    everything = Resampling(outcomes[GREEDY].clusters)
    right = {name: outcomes[name].accuracy for name in (GREEDY, VOTES, SAMPLE, ORACLE)}
    figures = [
        Measure("greedy", "greedy is right", everything.proportion(right[GREEDY]), "%"),
        Measure("sample", "one sample is right", everything.proportion(right[SAMPLE]), "%"),
        Measure(
            "votes_over_greedy",
            "16 votes - greedy",
            everything.difference(right[VOTES], right[GREEDY]),
            "points",
        ),
        Measure(
            "votes_over_sample",
            "16 votes - one sample",
            everything.difference(right[VOTES], right[SAMPLE]),
            "points",
        ),
        Measure("oracle", "one of 16 answers is right", everything.proportion(right[ORACLE]), "%"),
        Measure(
            "ranking",
            "right after the top-ranked - after random",
            _mean_of(questions, [_over_random(q, ranking, _chain_right) for q in questions]),
            "points",
        ),
        Measure(
            "ranking_auroc",
            "AUROC of MI for right answers",
            _mean_of(questions, [_auroc(q, ranking) for q in questions], 0, 1),
            "",
            "0.5 is chance",
        ),
    ]
    if judged := causality(questions):
        for key, meaning, unit in (
            ("after_right", "right after right descriptions", "%"),
            ("after_wrong", "right after wrong descriptions", "%"),
            ("difference", "right after right - after wrong ones", "points"),
        ):
            bounds = (judged[key], judged[f"{key}_low"], judged[f"{key}_high"])
            figures.append(Measure(key, meaning, Estimate(*bounds, judged["n"]), unit))  # type: ignore[arg-type]
    return {measure.key: measure for measure in figures if measure.estimate.n}


def _share(questions: Sequence[BankedQuestion], values: Sequence[float | None]) -> Estimate:
    return _estimated(questions, values, Resampling.proportion)


def _mean_of(
    questions: Sequence[BankedQuestion],
    values: Sequence[float | None],
    least: float = -1,
    most: float = 1,
) -> Estimate:
    """Return the mean of values within `least`..`most`: of differences of shares by default."""
    return _estimated(questions, values, lambda resampling, values: resampling.bounded(values, least, most))


def _estimated(
    questions: Sequence[BankedQuestion],
    values: Sequence[float | None],
    estimate: Callable[[Resampling, Sequence[float]], Estimate],
) -> Estimate:
    """Return the mean over the questions that have a value, with its interval."""
    pairs = [(q, value) for q, value in zip(questions, values, strict=True) if value is not None]
    resampling = Resampling([q.clusters or (q.key,) for q, _ in pairs])
    return estimate(resampling, [value for _, value in pairs])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _texts(question: BankedQuestion) -> set[str]:
    return {description.text for description in question.descriptions if description.reason is None}


def _answers(question: BankedQuestion) -> dict[int, list[NormalizedAnswer]]:
    """Return, by a description's index, the answers of its chains; chains without an answer are left out."""
    answered: dict[int, list[NormalizedAnswer]] = {}
    for chain in question.chains:
        if chain.answer is not None:
            answered.setdefault(chain.description, []).append(answers.normalize(chain.answer))
    return answered


def _repeats(question: BankedQuestion) -> list[bool]:
    """Return for every pair of chains of one description whether they agree."""
    return [
        answers.equivalent(a, b)
        for repeats in _answers(question).values()
        for a, b in combinations(repeats, 2)
    ]


def _across(question: BankedQuestion) -> list[bool]:
    """Return for every pair of descriptions with different texts whether their first chains agree."""
    first = [(question.descriptions[index].text, repeats[0]) for index, repeats in _answers(question).items()]
    return [answers.equivalent(a, b) for (text, a), (other, b) in combinations(first, 2) if text != other]


def _changed(row: Row) -> list[bool]:
    """Return for every draw whether the vote's answer differs from the greedy answer."""
    greedy, voted = (row["methods"][name]["answer"] for name in (GREEDY, VOTES))
    return [not _same(a, b) for a, b in zip(greedy, voted, strict=True)]


def _same(a: str | None, b: str | None) -> bool:
    if a is None or b is None:
        return a is b
    return answers.equivalent(answers.normalize(a), answers.normalize(b))


Value = Callable[[BankedQuestion, int], float | None]
"""(question, description's index) → a figure of its chains."""


def _chain_right(question: BankedQuestion, index: int) -> float | None:
    return _mean([chain.right for chain in question.chains if chain.description == index])


def _with_the_vote(question: BankedQuestion) -> Value:
    """Return the share of a description's answers that the vote of all chains has; None: there is no vote."""
    answered = _answers(question)
    votes = Counter((answer.kind, answer.key) for repeats in answered.values() for answer in repeats)
    winner, count = next(iter(votes.most_common(1)), (None, 0))

    def share(question: BankedQuestion, index: int) -> float | None:
        if count < 2 or index not in answered:
            return None
        return _mean([(answer.kind, answer.key) == winner for answer in answered[index]])

    return share


def _scores(question: BankedQuestion, ranking: Gated) -> dict[int, float]:
    """Return the gate's score of every usable description, by its index; none where they are too few."""
    if sum(description.reason is None for description in question.descriptions) < 2:
        return {}
    measured, _ = ranking.measure(question, question.descriptions)
    usable = [description for description in measured if description.reason is None]
    ranks = GATES[ranking.options.gate].rank(usable, ranking.options, random.Random(0))
    return dict(zip((description.index for description in usable), ranks, strict=True))


def _over_random(question: BankedQuestion, ranking: Gated, value: Value) -> float | None:
    """Return the value of the top-ranked description minus the mean over all of them."""
    values = {
        index: (score, figure)
        for index, score in _scores(question, ranking).items()
        if (figure := value(question, index)) is not None
    }
    if len(values) < 2:
        return None
    _, top = max(values.values(), key=lambda pair: pair[0])
    return top - sum(figure for _, figure in values.values()) / len(values)


def _auroc(question: BankedQuestion, ranking: Gated) -> float | None:
    """Return the chance that a description with a right first chain ranks above one with a wrong one."""
    scores = _scores(question, ranking)
    first: dict[int, bool] = {}
    for chain in question.chains:
        first.setdefault(chain.description, chain.right)
    pairs = [(score, first[index]) for index, score in scores.items() if index in first]
    if not pairs:
        return None
    areas = within_auroc(np.array([[score for score, _ in pairs]]), np.array([right for _, right in pairs]))
    return None if areas is None else float(areas[0])
