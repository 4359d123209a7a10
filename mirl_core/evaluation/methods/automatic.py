"""`auto-RULE`: the gate `mi` with λ chosen by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from mirl_core.algorithm.gates import select
from mirl_core.engines.base import derive_seed
from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion
from mirl_core.evaluation.methods.auto_weight import (
    REQUEST_RULES,
    Array,
    Rule,
    ScoredDescription,
    fixed_weight,
)
from mirl_core.evaluation.methods.base import Replay, ReplayDraw, unlabelled
from mirl_core.evaluation.methods.gated import Gated, as_descriptions, marginal_of
from mirl_core.evaluation.methods.parsing import MethodSpec
from mirl_core.evaluation.methods.replay_chains import drawn, fallback, forked, run
from mirl_core.evaluation.methods.traffic import TRAFFIC_RULES
from mirl_core.types import Description

__all__ = ["Agreement", "Automatic", "FromTraffic"]


@dataclass(frozen=True, slots=True)
class Automatic(Gated):
    """`auto-information`, `auto-conflict`, `auto-stable`, `auto-average`: λ from the request's descriptions.

    A rule falls back to `mi_weight` where the descriptions don't determine λ; `information` always determines
    it. `information` is the product's `mi_weight: "auto"`, so `mirl(mi_weight=auto)` is equal to it.
    """

    rule: Rule | None = None
    served: ClassVar[bool] = False

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        # A dataclass with slots is a new class: the bare super() refers to the old class.
        method = super(Automatic, cls).make(spec)
        rule = REQUEST_RULES.get(spec.base.removeprefix("auto-"))
        return replace(method, rule=rule() if rule else None)

    @classmethod
    def fixed(cls) -> dict[str, object]:
        return {"gate": "mi"}

    def measure(
        self, banked: BankedQuestion, descriptions: Sequence[BankedDescription]
    ) -> tuple[list[Description], int]:
        if self.rule is None:
            raise ValueError(
                f"{self.name} must be prepared with a deployment's questions before it is played"
            )
        measured = self.ranked_by(
            self.rule.scores(self.sampled(banked, descriptions), self.options), descriptions
        )
        # Always scored, whatever λ is: its choice takes the image-free term.
        return measured, self.scored_tokens(descriptions)

    def sampled(
        self, banked: BankedQuestion, descriptions: Sequence[BankedDescription]
    ) -> list[ScoredDescription]:
        """Return the usable descriptions in the form that rules take."""
        return [
            ScoredDescription(
                description.text,
                np.asarray(description.logprobs, dtype=np.float64),
                np.asarray(marginal_of(description, self.options, self.name), dtype=np.float64),
                banked.question or banked.family,
            )
            for description in descriptions
            if not description.reason
        ]

    def ranked_by(self, scores: Array, descriptions: Sequence[BankedDescription]) -> list[Description]:
        """Return the descriptions with an MI that the gate normalises back to `scores` of the usable ones."""
        by_token = self.options.normalize == "token"
        lengths = [
            max(description.content_tokens, 1) if by_token else 1
            for description in descriptions
            if not description.reason
        ]
        return as_descriptions(
            descriptions, [score * n for score, n in zip(scores.tolist(), lengths, strict=True)]
        )


class FromTraffic(Automatic):
    """`auto-traffic`, `auto-prior`: λ from a deployment's unlabelled requests; prepare it once per data set.

    It learns from the first N banked descriptions of each question, the number that a request samples.
    """

    __slots__ = ()

    def prepare(self, questions: Sequence[BankedQuestion]) -> Self:
        blind = [unlabelled(question) for question in questions]
        traffic = [
            self.sampled(question, question.descriptions[: self.options.descriptions]) for question in blind
        ]
        rule = TRAFFIC_RULES[self.name.partition("(")[0].removeprefix("auto-")]
        return replace(self, rule=rule.fit(traffic, self.options))


class Agreement(Automatic):
    """`auto-agreement`: of λ = 0, ½ and 1, the value whose kept descriptions' chains agree most.

    Self-consistency judges λ: right descriptions lead to one answer, wrong ones to many. All chains that any
    of the three values needs run to their end, a shared chain once: that is the cost of the choice. The
    greatest vote share wins; a tie goes to ½, then to 1. Where nothing votes (best description wins), λ = ½.
    """

    __slots__ = ()
    weights = (0.5, 1.0, 0.0)

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        options = self.options
        descriptions = drawn(banked, draw, options.descriptions, self.name)
        if all(description.reason for description in descriptions):
            return fallback(banked, descriptions, options.aggregate)
        sampled = self.sampled(banked, descriptions)
        described = sum(description.tokens for description in descriptions)
        scored = self.scored_tokens(descriptions)
        candidates: list[Replay] = []
        costs: dict[tuple[int | None, int], int] = {}
        for weight in self.weights:
            measured = self.ranked_by(fixed_weight(sampled, weight, options), descriptions)
            selected = select(measured, options, derive_seed(draw.seed, "gate"))
            kept = {description.index: description.score for description in selected if description.kept}
            traces = forked(banked, draw, kept, options.forks, self.name)
            costs |= {(trace.chain.description, trace.chain.fork): trace.ticks for trace in traces}
            played = run(traces, options.aggregate, early_stop=False)
            candidates.append(replace(played, descriptions=selected))
        winner = max(
            candidates, key=lambda candidate: -1.0 if candidate.confidence is None else candidate.confidence
        )
        return replace(
            winner,
            generated_tokens=described + sum(costs.values()),
            scored_tokens=scored,
            trajectories=len(costs),
        )
