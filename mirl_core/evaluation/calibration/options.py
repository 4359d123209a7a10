"""Choice of a model's options on banked dev questions, within a budget of tokens.

A full grid over λ, N, k, m, estimator, normalisation, clipping, adaptive k and distinct ranking has tens of
thousands of points, most of them poor. So the search goes in rounds on a sample of the questions (the score
first, then the shape N, k, m, then the extras), and its candidates are measured on all questions.
The choice is by the one-standard-error rule: of the candidates within the budget, the cheapest whose accuracy
is within one standard error (of the paired difference) of the best candidate's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from mirl_core.config import MIRLOptions, MIWeight, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods import Method, parse_methods, replay_draws
from mirl_core.tasks.resampling import Resampling

__all__ = ["Candidate", "Choice", "Grid", "calibrate", "frontier"]

Array = npt.NDArray[np.float64]
Options = tuple[tuple[str, object], ...]
"""Changed options, sorted by name."""

_SCREEN_QUESTIONS = 200
_SCREEN_DRAWS = 2
_FINALISTS = 24
_PLAIN: dict[str, object] = {"adaptive_keep": None, "distinct": False}
"""Extras before their round: every setting has all options that calibration chooses."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The values to try of each option."""

    mi_weight: tuple[MIWeight, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, "auto")
    descriptions: tuple[int, ...] = (4, 6, 8, 10, 12, 16)
    keep: tuple[int, ...] = (1, 2, 3, 4, 6)
    forks: tuple[int, ...] = (1, 2, 3)
    estimator: tuple[str, ...] = ("text", "blank")
    normalize: tuple[str, ...] = ("token", "sum")
    clip: tuple[float | None, ...] = (None, 2.0)
    adaptive_keep: tuple[float | None, ...] = (None, 0.8, 0.95)
    distinct: tuple[bool, ...] = (False, True)

    def scorers(self) -> list[dict[str, object]]:
        """Return every way to rank; with λ = 0 the estimator has no effect, so one estimator is enough."""
        return [
            {"mi_weight": weight, "estimator": estimator, "normalize": normalize, "clip": clip}
            for weight, estimator, normalize, clip in product(
                self.mi_weight, self.estimator, self.normalize, self.clip
            )
            if weight != 0 or estimator == self.estimator[0]
        ]

    def shapes(self) -> list[dict[str, object]]:
        """Return every (N, k, m) in which the gate drops a description."""
        return [
            {"descriptions": n, "keep": k, "forks": m}
            for n, k, m in product(self.descriptions, self.keep, self.forks)
            if k < n
        ]

    def extras(self) -> list[dict[str, object]]:
        """Return the other options, beyond the defaults."""
        return [
            {"adaptive_keep": mass, "distinct": distinct}
            for mass, distinct in product(self.adaptive_keep, self.distinct)
            if mass is not None or distinct
        ]

    def within(self, descriptions: int, forks: int, estimators: Sequence[str]) -> Grid:
        """Return the part of the grid that a bank of this size can replay."""
        return Grid(
            self.mi_weight,
            tuple(n for n in self.descriptions if n <= descriptions) or (descriptions,),
            self.keep,
            tuple(m for m in self.forks if m <= forks),
            tuple(estimators),
            self.normalize,
            self.clip,
            self.adaptive_keep,
            self.distinct,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Options with their accuracy and cost."""

    options: Options
    accuracy: Array
    """Share of right draws: [questions]."""
    tokens: Array
    """Generated plus scored tokens, mean over draws: [questions]."""

    @property
    def mean(self) -> float:
        return float(self.accuracy.mean())

    @property
    def cost(self) -> float:
        """Tokens a question."""
        return float(self.tokens.mean())

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {"options": dict(self.options), "accuracy": self.mean, "tokens": self.cost}


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of `calibrate`."""

    chosen: Candidate
    best: Candidate
    """The most accurate within the budget."""
    error: float
    """Standard error of the difference between chosen and best, share."""
    budget: float
    baseline: Candidate
    """Its cost is the default budget; its `options` are empty."""
    finalists: tuple[Candidate, ...]
    tried: int
    settings: ModelSettings
    """The model's settings with the chosen options."""


def calibrate(
    questions: Sequence[BankedQuestion],
    settings: ModelSettings,
    grid: Grid,
    *,
    budget: float | None = None,
    opening_tokens: int = 1,
    count: int = 4,
    seed: int = 0,
    tick: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Choice:
    """Choose options for `settings` on dev questions.

    Args:
        questions: of one data set or of several; each weighs the same.
        budget: most generated plus scored tokens a question; None: the cost of `sc@16` under the same
        stopping
            rule (with the bank's K where that is less).
        count: draws of each question in the last round.
        tick: called with the round's name, the number of its settings done, and their total.

    Raises:
        ConfigError: there are no questions, or no candidate fits the budget.
    """
    if not questions:
        raise ConfigError("there are no banked questions to calibrate on", param="data")
    everything = _ReplayBench(questions, settings, opening_tokens, count, seed)
    size = min(16, *(len(question.descriptions) for question in questions))
    baseline = everything.play(f"sc@{size}+stop", ())
    limit = baseline.cost if budget is None else budget
    search = _Search(_ReplayBench(_spread(questions), settings, opening_tokens, _SCREEN_DRAWS, seed), tick)

    first = [
        {"descriptions": n, "keep": k, "forks": m}
        for n, k, m in ((max(grid.descriptions), 1, max(grid.forks)), (max(grid.descriptions), 3, 1))
    ]
    search.round("scores", (shape | scorer for shape in first for scorer in grid.scorers()))
    scorers = search.leading(("mi_weight", "estimator", "normalize", "clip"), 2)
    search.round("shapes", (shape | scorer for scorer in scorers for shape in grid.shapes()))
    leaders = [dict(candidate.options) for candidate in search.best(limit, 8)]
    search.round("extras", (leader | extra for leader in leaders for extra in grid.extras()))
    # The first round ranks scores at two shapes only; this one ranks them at the leading shapes.
    search.round("scores again", (leader | scorer for leader in leaders[:2] for scorer in grid.scorers()))

    # Of settings that are equal on the sample (a clip without effect) one is measured further.
    names = {
        (candidate.mean, candidate.cost): candidate.options
        for candidate in (*frontier(search.measured.values()), *reversed(search.best(limit, _FINALISTS)))
    }.values()
    finalists = []
    for done, options in enumerate(names):
        tick("candidates on all questions", done, len(names))
        finalists.append(everything.play("mirl", options))
    tick("candidates on all questions", len(names), len(names))
    affordable = [candidate for candidate in finalists if candidate.cost <= limit]
    if not affordable:
        cheapest = min(candidate.cost for candidate in finalists)
        raise ConfigError(
            f"budget: nothing fits {limit:.0f} tokens a question; the cheapest takes {cheapest:.0f}",
            param="budget",
        )
    best = max(affordable, key=lambda candidate: (candidate.mean, -candidate.cost))
    resampling = Resampling([question.clusters or (question.key,) for question in questions])

    def error(candidate: Candidate) -> float:
        return float(resampling.deviations(best.accuracy - candidate.accuracy).std())

    chosen = min(
        (candidate for candidate in affordable if best.mean - candidate.mean <= error(candidate)),
        key=lambda candidate: (candidate.cost, -candidate.mean),
    )
    changed = settings.options.model_dump() | dict(chosen.options) | {"gate": "mi"}
    return Choice(
        chosen,
        best,
        error(chosen),
        limit,
        baseline,
        tuple(finalists),
        len(search.measured),
        # An earlier calibration was fitted for other options.
        settings.model_copy(update={"options": MIRLOptions.model_validate(changed), "calibration": None}),
    )


def frontier(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates that no cheaper candidate equals, by cost."""
    undominated: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: (candidate.cost, -candidate.mean)):
        if not undominated or candidate.mean > undominated[-1].mean:
            undominated.append(candidate)
    return undominated


class _ReplayBench:
    """Replays of methods on fixed questions with fixed draws."""

    def __init__(
        self,
        questions: Sequence[BankedQuestion],
        settings: ModelSettings,
        opening_tokens: int,
        count: int,
        seed: int,
    ) -> None:
        # The options in the model's mirl.json must not affect the candidates.
        plain = settings.options.model_copy(update={"gate": "mi", "early_stop": True, "token_mi": False})
        self._settings = settings.model_copy(update={"options": plain})
        self._opening = opening_tokens
        self._draws = [(question, replay_draws(question, count, seed)) for question in questions]

    def play(self, name: str, options: Options) -> Candidate:
        changes = ";".join(f"{key}={'none' if value is None else value}" for key, value in options)
        (method,) = parse_methods(f"{name}({changes})" if changes else name, self._settings, self._opening)
        accuracy, tokens = zip(
            *(_mean_outcome(method, question, drawn) for question, drawn in self._draws), strict=True
        )
        return Candidate(options, np.array(accuracy), np.array(tokens))


class _Search:
    """Candidates measured on a sample of the questions, each once."""

    def __init__(self, bench: _ReplayBench, tick: Callable[[str, int, int], None]) -> None:
        self._bench = bench
        self._tick = tick
        self.measured: dict[Options, Candidate] = {}

    def round(self, name: str, settings: Iterable[dict[str, object]]) -> None:
        requested = dict.fromkeys(tuple(sorted((_PLAIN | changes).items())) for changes in settings)
        fresh = [options for options in requested if options not in self.measured]
        for done, options in enumerate(fresh):
            self._tick(name, done, len(fresh))
            self.measured[options] = self._bench.play("mirl", options)
        self._tick(name, len(fresh), len(fresh))

    def leading(self, names: Sequence[str], count: int) -> list[dict[str, object]]:
        """Return the `count` values of the options `names` that are best on average over all candidates."""
        means: dict[Options, list[float]] = {}
        for options, candidate in self.measured.items():
            part = tuple((name, value) for name, value in options if name in names)
            means.setdefault(part, []).append(candidate.mean)
        ranked = sorted(means, key=lambda part: -float(np.mean(means[part])))
        return [dict(part) for part in ranked[:count]]

    def best(self, budget: float, count: int) -> list[Candidate]:
        """Return the `count` most accurate candidates within the budget, cheaper ones first where equal."""
        # The mean cost on the sample differs a little from that on all questions: a cost just above may be
        # within.
        affordable = [candidate for candidate in self.measured.values() if candidate.cost <= 1.05 * budget]
        return sorted(affordable, key=lambda candidate: (-candidate.mean, candidate.cost))[:count]


def _mean_outcome(method: Method, question: BankedQuestion, drawn: Sequence[Any]) -> tuple[float, float]:
    plays = [method.play(question, draw) for draw in drawn]
    right = sum(play.right for play in plays)
    spent = sum(play.generated_tokens + play.scored_tokens for play in plays)
    return right / len(plays), spent / len(plays)


def _spread(questions: Sequence[BankedQuestion]) -> list[BankedQuestion]:
    """Return at most `_SCREEN_QUESTIONS`, evenly over the list, so that every data set has its share."""
    if len(questions) <= _SCREEN_QUESTIONS:
        return list(questions)
    step = len(questions) / _SCREEN_QUESTIONS
    return [questions[int(number * step)] for number in range(_SCREEN_QUESTIONS)]
