"""Methods that sample whole trajectories: a single one, K at once, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import Field

from mirl_core.algorithm import answers
from mirl_core.algorithm.voting import probability_ahead
from mirl_core.config import Aggregation, Settings
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods.base import Replay, ReplayDraw
from mirl_core.evaluation.methods.parsing import MethodSpec
from mirl_core.evaluation.methods.replay_chains import (
    Trace,
    at_temperature,
    drawn,
    fallback,
    run,
    trajectories,
)
from mirl_core.types import Chain

__all__ = ["Adaptive", "Direct", "EarlyStopping", "Greedy", "OracleAnswer", "SelfConsistency"]


class NoOptions(Settings):
    """No options."""


class SampleOptions(Settings):
    """Options of `direct`."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """One of the bank's further temperatures; None: the temperature of all other methods."""


class VoteOptions(SampleOptions):
    """Options of methods that only vote."""

    aggregate: Aggregation = "auto"
    """As `mirl_core.config.MIRLOptions.aggregate`."""


class AdaptiveOptions(VoteOptions):
    """Options of `adaptive`."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Probability, at which to stop, that the leading answer stays ahead; the paper's value."""


class EarlyStoppingOptions(VoteOptions):
    """Options of `esc`."""

    window: Annotated[int, Field(ge=2)] = 4
    """Trajectories sampled side by side before they are compared."""


@dataclass(frozen=True, slots=True)
class Direct:
    """`direct`: one sampled trajectory, as a client without MIRL gets. Nothing votes: no confidence."""

    name: str
    aggregate: Aggregation
    temperature: float | None

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain()
        options = spec.options(SampleOptions())
        return cls(spec.name, spec.settings.options.aggregate, options.temperature)

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        banked, draw = at_temperature(banked, draw, self.temperature, self.name)
        return replace(_sample(banked, draw, 1, self.aggregate, False, self.name), confidence=None)


@dataclass(frozen=True, slots=True)
class Greedy:
    """`greedy`: the banked trajectory at temperature 0; the same in every draw."""

    name: str

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain()
        spec.options(NoOptions())
        return cls(spec.name)

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        description, chain = banked.greedy
        if chain is None:
            return Replay(None, False, description.tokens, 0, 0, None)
        return Replay(
            chain.answer,
            chain.right,
            description.tokens + chain.tokens,
            0,
            1,
            None,
            chains=(Chain(None, 0, "", "", chain.answer, chain.tokens, chain.finish_reason),),
        )


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """`sc@K`: K trajectories and a vote (Wang et al. 2022); `sc@K+stop` with the product's stopping rule."""

    name: str
    count: int
    stop: bool
    aggregate: Aggregation
    temperature: float | None

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        options = spec.options(VoteOptions(aggregate=spec.settings.options.aggregate))
        return cls(spec.name, spec.k, spec.stop, options.aggregate, options.temperature)

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        banked, draw = at_temperature(banked, draw, self.temperature, self.name)
        return _sample(banked, draw, self.count, self.aggregate, self.stop, self.name)


@dataclass(frozen=True, slots=True)
class OracleAnswer:
    """`oracle-answer@K`: right if any of K trajectories is (pass@K), the bound of every vote over them."""

    name: str
    count: int

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain(count=True)
        spec.options(NoOptions())
        return cls(spec.name, spec.k)

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        played = _sample(banked, draw, self.count, "majority", False, self.name)
        right_trace = next(
            (trace for trace in trajectories(banked, draw, self.count, self.name) if trace.right), None
        )
        if right_trace is None or played.right:
            return replace(played, confidence=None)
        return replace(played, answer=right_trace.chain.answer, right=True, confidence=None)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """`adaptive@K`: Adaptive-Consistency (Aggarwal et al. 2023, "Let's Sample Step by Step").

    One trajectory at a time, at most K, until the leading answer is likely to stay ahead. Cheap in tokens and
    slow in seconds: nothing runs side by side.
    """

    name: str
    count: int
    options: AdaptiveOptions

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain(count=True)
        return cls(
            spec.name, spec.k, spec.options(AdaptiveOptions(aggregate=spec.settings.options.aggregate))
        )

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        banked, draw = at_temperature(banked, draw, self.options.temperature, self.name)
        traces = trajectories(banked, draw, self.count, self.name)
        for count in range(1, self.count):
            if self.enough(traces[:count]):
                return _played(banked, draw, traces[:count], self.options.aggregate, self.name)
        return _played(banked, draw, traces, self.options.aggregate, self.name)

    def enough(self, traces: Sequence[Trace]) -> bool:
        """Return whether the leading answer is likely enough to stay ahead."""
        votes = sorted(map(len, _groups(traces)), reverse=True)
        if not votes:
            return False
        second = votes[1] if len(votes) > 1 else 0
        return probability_ahead(votes[0], second) >= self.options.threshold


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """`esc@K`: Early-Stopping Self-Consistency (Li et al. 2024, "Escape Sky-high Cost").

    Windows of a few trajectories side by side, at most K in all; stop after a window whose answers all agree,
    then vote over all samples.
    """

    name: str
    count: int
    options: EarlyStoppingOptions

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain(count=True)
        options = spec.options(EarlyStoppingOptions(aggregate=spec.settings.options.aggregate))
        return cls(spec.name, spec.k, options)

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        banked, draw = at_temperature(banked, draw, self.options.temperature, self.name)
        traces = trajectories(banked, draw, self.count, self.name)
        window = self.options.window
        for start in range(0, self.count, window):
            groups = _groups(traces[start : start + window])
            if len(groups) == 1 and len(groups[0]) == window:
                traces = traces[: start + window]
                break
        return _played(banked, draw, traces, self.options.aggregate, self.name)


def _groups(traces: Sequence[Trace]) -> list[list[int]]:
    """Group equal answers: their indices in `traces` without the traces that have no answer."""
    return answers.group([trace.chain.answer for trace in traces if trace.chain.answer is not None])


def _sample(
    banked: BankedQuestion, draw: ReplayDraw, count: int, aggregate: Aggregation, stop: bool, name: str
) -> Replay:
    traces = trajectories(banked, draw, count, name)
    return _played(banked, draw, traces, aggregate, name, stop)


def _played(
    banked: BankedQuestion,
    draw: ReplayDraw,
    traces: Sequence[Trace],
    aggregate: Aggregation,
    name: str,
    stop: bool = False,
) -> Replay:
    """Vote over the draw's first trajectories, or replay the fallback where none has a usable description."""
    if not any(trace.reaches_answer for trace in traces):
        return fallback(banked, drawn(banked, draw, len(traces), name), aggregate)
    return run(traces, aggregate, stop)
