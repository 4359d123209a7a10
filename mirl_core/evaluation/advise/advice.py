"""The advice: all figures of a model, and what the rule makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.evaluation.advise.candidates import GREEDY, ORACLE, SAMPLE, VOTES, Candidate, candidates
from mirl_core.evaluation.advise.intervals import joint_gains
from mirl_core.evaluation.advise.measures import Measure, Row, label_free, labelled, slips
from mirl_core.evaluation.advise.rule import (
    Contender,
    Decision,
    GateVerdict,
    decide,
    gate_verdict,
    shares_chains,
)
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.measures.outcomes import Outcomes, outcomes_of
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.tasks.resampling import Estimate, Resampling

__all__ = ["Advice", "MethodFigures", "weigh"]


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One way of answering; accuracies are shares, None where no question has an answer."""

    name: str
    method: str
    tokens: Estimate
    """Generated plus scored tokens a question."""
    accuracy: Estimate | None
    over_greedy: Estimate | None
    """Its accuracy minus that of greedy decoding, with the interval of this single comparison."""
    over_votes: Estimate | None
    """The same against 16 votes."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Advice:
    """The result of `weigh`."""

    questions: int
    labelled: int
    """Questions with an answer."""
    measures: Mapping[str, Measure]
    methods: tuple[MethodFigures, ...]
    """The candidates, then a single sample and the oracle over 16 answers; over all data sets."""
    by_data: Mapping[str, tuple[MethodFigures, ...]]
    """Data set → the same on its questions; empty where there is one data set."""
    candidates: tuple[Candidate, ...]
    decision: Decision | None
    """On the candidates that a server answers by; None without answers."""
    share_chains: bool
    gate: GateVerdict
    tolerance: float
    """As `mirl_core.evaluation.advise.rule.decide` has it; share."""
    smallest_gain: float

    @property
    def advised(self) -> Candidate | None:
        """The candidate to use; None where the sample decides nothing."""
        if self.decision is None or self.decision.too_small:
            return None
        return self.candidate(self.decision.advised)

    def candidate(self, name: str) -> Candidate:
        """Return the candidate of this name."""
        return next(candidate for candidate in self.candidates if candidate.name == name)

    def figures(self, name: str) -> MethodFigures:
        """Return the figures of the candidate of this name, over all data sets."""
        return next(figures for figures in self.methods if figures.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        advised = self.advised
        return {
            "questions": self.questions,
            "labelled": self.labelled,
            "measures": {key: measure.to_json() for key, measure in self.measures.items()},
            "methods": [figures.to_json() for figures in self.methods],
            "by_data": {
                data: [figures.to_json() for figures in methods] for data, methods in self.by_data.items()
            },
            "tolerance": self.tolerance,
            "smallest_gain": self.smallest_gain,
            "decision": asdict(self.decision) if self.decision else None,
            "advised": advised.name if advised else None,
            "options": dict(advised.options or {}) if advised else None,
            "share_chains": self.share_chains,
            "gate": self.gate.value,
        }


def weigh(
    questions: Mapping[str, Sequence[BankedQuestion]],
    rows: Mapping[str, Sequence[Row]],
    model: ModelSettings,
    ranking: Gated,
    tolerance: float,
    smallest_gain: float,
) -> Advice:
    """Return the advice on these questions.

    Args:
        questions: data set → its banked questions; those without an answer have the truth "".
        rows: data set → the replays of its questions, of all methods of `candidates.methods_text` for the
            `share_chains` that these questions show.
        model: settings of the model.
        ranking: the gate whose ranks are measured.
        tolerance: see `mirl_core.evaluation.advise.rule.decide`; share.
        smallest_gain: see there; share.
    """
    every = [question for data in questions for question in questions[data]]
    every_row = [row for data in questions for row in rows[data]]
    measures = label_free(every, every_row, ranking)
    share_chains = shares_chains(slips(every))
    compared = candidates(model, share_chains)
    answered = [number for number, question in enumerate(every) if question.truth]
    outcomes = outcomes_of([every_row[number] for number in answered])
    measures |= labelled([every[number] for number in answered], outcomes, ranking)
    ranks = measures.get("ranking")
    decision = _decision(compared, outcomes, tolerance, smallest_gain) if answered else None
    gated = [candidate.name for candidate in compared if candidate.gated]
    return Advice(
        questions=len(every),
        labelled=len(answered),
        measures=measures,
        methods=_figures(compared, every_row, outcomes),
        by_data={data: _of_data(compared, questions[data], rows[data]) for data in questions}
        if len(questions) > 1
        else {},
        candidates=compared,
        decision=decision,
        share_chains=share_chains,
        gate=gate_verdict(decision, gated, ranks.estimate if ranks else None),
        tolerance=tolerance,
        smallest_gain=smallest_gain,
    )


def _decision(
    compared: Sequence[Candidate],
    outcomes: Mapping[str, Outcomes],
    tolerance: float,
    smallest_gain: float,
) -> Decision:
    served = {
        candidate.name: outcomes[candidate.method] for candidate in compared if candidate.options is not None
    }
    contenders = [
        Contender(name, float(outcome.tokens.mean()), float(outcome.accuracy.mean()))
        for name, outcome in served.items()
    ]
    first = outcomes[GREEDY]
    accuracies = {name: outcome.accuracy for name, outcome in served.items()}
    gains = joint_gains(accuracies, Resampling(first.clusters))
    return decide(contenders, gains, len(first.keys), tolerance, smallest_gain)


def _of_data(
    compared: Sequence[Candidate], questions: Sequence[BankedQuestion], rows: Sequence[Row]
) -> tuple[MethodFigures, ...]:
    answered = [row for question, row in zip(questions, rows, strict=True) if question.truth]
    return _figures(compared, rows, outcomes_of(answered))


def _figures(
    compared: Sequence[Candidate], rows: Sequence[Row], outcomes: Mapping[str, Outcomes]
) -> tuple[MethodFigures, ...]:
    """Return the figures of all ways of answering.

    Args:
        rows: of all questions; they have the tokens.
        outcomes: of the questions with an answer; empty without any.
    """
    every = outcomes_of(rows)
    costs = Resampling(every[GREEDY].clusters)
    resampling = Resampling(outcomes[GREEDY].clusters) if outcomes else None

    def figures(name: str, method: str) -> MethodFigures:
        tokens = costs.mean(every[method].tokens)
        if resampling is None:
            return MethodFigures(name, method, tokens, None, None, None)
        accuracy = outcomes[method].accuracy
        return MethodFigures(
            name,
            method,
            tokens,
            resampling.proportion(accuracy),
            None if method == GREEDY else resampling.difference(accuracy, outcomes[GREEDY].accuracy),
            None if method == VOTES else resampling.difference(accuracy, outcomes[VOTES].accuracy),
        )

    named = [(candidate.name, candidate.method) for candidate in compared]
    return tuple(figures(*pair) for pair in [*named, ("one sample", SAMPLE), ("oracle@16", ORACLE)])
