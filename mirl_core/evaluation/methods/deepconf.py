"""DeepConf's offline rule: keep the most confident trajectories, and weigh their votes by confidence.

Fu et al. 2025, "Deep Think with Confidence" (arXiv 2508.15260), sections 2 and 3.2: a token's confidence is
−1/k Σ_j log P(j) over the k likeliest tokens; a trace's is the mean over its tokens, or the lowest mean over
a sliding group of them. Of the traces with an answer, those at or above the (1 − η) quantile of confidence
stay, η being 90% or 10%; an answer's weight is the sum of its traces' confidences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field

from mirl_core.algorithm import answers
from mirl_core.config import Settings
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods.base import Replay, ReplayDraw
from mirl_core.evaluation.methods.parsing import MethodSpec
from mirl_core.evaluation.methods.replay_chains import Trace, drawn, fallback, refuse, trajectories

__all__ = ["DeepConf", "DeepConfLow"]


class DeepConfOptions(Settings):
    """Options of `deepconf` and `deepconf-low`."""

    keep: Annotated[float, Field(gt=0, le=1)] = 0.9
    """η: the share of traces that vote; 0.9 and 0.1 in the paper."""


@dataclass(frozen=True, slots=True)
class DeepConf:
    """`deepconf@K`: by mean confidence. Offline: all K run to their end, so the cost is that of sc@K."""

    name: str
    count: int
    options: DeepConfOptions
    lowest: ClassVar[bool] = False

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain(count=True)
        return cls(spec.name, spec.k, spec.options(DeepConfOptions()))

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        traces = trajectories(banked, draw, self.count, self.name)
        if not any(trace.reaches_answer for trace in traces):
            return fallback(banked, drawn(banked, draw, self.count, self.name), "majority")
        cost = sum(trace.ticks for trace in traces)
        complete = sum(trace.reaches_answer for trace in traces)
        answered = [trace for trace in traces if trace.chain.answer is not None]
        if not answered:
            return Replay(None, False, cost, 0, complete, None)
        winner, share = self.vote(answered)
        return Replay(
            winner.chain.answer,
            winner.right,
            cost,
            0,
            complete,
            share,
            chains=tuple(trace.chain for trace in answered),
        )

    def vote(self, answered: Sequence[Trace]) -> tuple[Trace, float]:
        """Return the winning answer's surest trace and the answer's share of the weight; ties go to the
        surer."""
        sureness = np.array([self.confidence(trace) for trace in answered])
        bar = np.quantile(sureness, 1 - self.options.keep)
        kept = [index for index in np.argsort(-sureness, kind="stable").tolist() if sureness[index] >= bar]
        groups = answers.group([answered[index].chain.answer or "" for index in kept])
        weights = [sum(float(sureness[kept[index]]) for index in group) for group in groups]
        heaviest = max(range(len(groups)), key=lambda number: weights[number])
        whole = sum(weights)
        share = weights[heaviest] / whole if whole else 1 / len(groups)
        return answered[kept[groups[heaviest][0]]], share

    def confidence(self, trace: Trace) -> float:
        """Return the trace's confidence; nats, high where the trace is sure."""
        confidence = trace.lowest_confidence if self.lowest else trace.confidence
        if confidence is None:
            refuse(self.name, "the bank holds no confidence of trajectories; bank anew")
        return confidence


class DeepConfLow(DeepConf):
    """`deepconf-low@K`: by the lowest group confidence."""

    __slots__ = ()
    lowest: ClassVar[bool] = True
