"""Rollouts → update → sync → checkpoint, until the recipe is done.

Guarantees:
- a saved state is always the state between two steps: data cursor, counters, weights and optimiser agree;
- a step that is stopped or fails before its update leaves no trace: it is planned anew on resuming;
- one step off (`rollout.asynchronous`): step t + 1 is sampled with the weights from before update t, while
  step t is trained on; the engine gets new weights when both are done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from mirl_core.engines.base import Engine
from mirl_core.errors import MIRLError, TrainingError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.dev_evaluation import DevEvaluation
from mirl_core.training.rl.distributed.process_group import ProcessGroup, merged
from mirl_core.training.rl.distributed.torch_thread import in_thread
from mirl_core.training.rl.planners import Planner
from mirl_core.training.rl.planners.question_source import DataCursor, QuestionSource
from mirl_core.training.rl.planners.rows import Plan, TrainingRow
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.report.monitor import Monitor
from mirl_core.training.rl.report.pages import TrajectoryLog

__all__ = ["Loop", "RunParts", "State", "Totals"]

T = TypeVar("T")
Show = Callable[[int, Mapping[str, float]], None]
"""Called with every step's figures, and with every dev evaluation's."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The cost of training so far, over all ranks and resumes."""

    complete_trajectories: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0
    """Seconds of steps alone: rollouts, update, sync."""
    wall_seconds: float = 0.0
    """Seconds with dev evaluations, checkpoints and exports; without start-up."""


@dataclass(frozen=True, slots=True)
class State:
    """The position of a run between two steps."""

    step: int = 0
    """Steps done."""
    cursor: DataCursor = field(default_factory=DataCursor)
    """The position in the data at which the next step's batch starts."""
    totals: Totals = field(default_factory=Totals)


class TrainerLike(Protocol):
    """A trainer that makes optimiser steps."""

    def step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """Train on this rank's rows. Raises TrainingError."""
        ...


@dataclass(frozen=True, slots=True)
class RunParts:
    """The opened parts that a loop works with, all at the same step."""

    engine: Engine
    source: QuestionSource
    planner: Planner
    trainer: TrainerLike
    push: Callable[[int], Awaitable[None]]
    """Give the engine the policy's weights under this version; all ranks call it."""
    save: Callable[[State], None]
    """Write a checkpoint; all ranks call it, in the trainer's thread."""
    export: Callable[[str], None]
    """Write a Hugging Face folder of this name; all ranks call it, in the trainer's thread."""
    dev_evaluation: DevEvaluation
    monitor: Monitor | None
    """None on all ranks but the first."""
    samples: TrajectoryLog | None
    thread: ThreadPoolExecutor
    """The one thread in which torch works."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """The rollouts of a step while they run."""

    task: asyncio.Task[Plan]
    questions: Sequence[Question]
    after: DataCursor
    version: int
    """Number of updates that the sampling weights had."""


@dataclass(frozen=True, slots=True)
class _Rolled:
    """The rollouts of a step, done on all ranks."""

    plan: Plan
    """This rank's plan."""
    metrics: Mapping[str, float]
    counts: tuple[int, int, int]
    """Complete trajectories, generated and scored tokens of all ranks."""


class Loop:
    """A run that continues from `state`.

    Args:
        saved: the step of the newest checkpoint; None: there is none.
    """

    def __init__(
        self,
        recipe: RLRecipe,
        parts: RunParts,
        process_group: ProcessGroup,
        state: State,
        saved: int | None,
        show: Show,
    ) -> None:
        self.state = state
        self._recipe = recipe
        self._parts = parts
        self._process_group = process_group
        self._saved = saved
        self._show = show
        self._ahead: _Planned | None = None
        self._wall_began = time.perf_counter() - state.totals.wall_seconds

    async def run(self, stop: asyncio.Event, until: float | None = None) -> bool:
        """Continue until the recipe's steps are done (True), or until a stop (False).

        Args:
            stop: when set, for instance by a signal, running rollouts are given up; an update is finished.
            until: `time.monotonic()` after which no further step begins.

        Raises:
            TrainingError, EngineError, RequestError: a step failed; the state before it is saved.
        """
        try:
            while not await self._between_steps(stop, until):
                if not await self._step(stop):
                    break
        except MIRLError as error:
            # Sampling changes no weights, and an update that fails leaves them unchanged; but an earlier
            # update on the same batch may have changed them, and a run can't resume from half a step.
            if not isinstance(error, TrainingError) or self._recipe.optimizer.updates == 1:
                await self._save()
            raise
        finally:
            await self._drop_ahead()
        await self._save()
        return self.state.step == self._recipe.steps

    async def _between_steps(self, stop: asyncio.Event, until: float | None) -> bool:
        """Do what is due between two steps; return whether to end here."""
        recipe, step = self._recipe, self.state.step
        must_stop = stop.is_set() or (until is not None and time.monotonic() > until)
        stopped = await self._any(must_stop)
        if not stopped and await in_thread(self._parts.thread, lambda: self._parts.dev_evaluation.due(step)):
            figures = await self._parts.dev_evaluation.evaluate(
                self._parts.engine, step, asdict(self._totals())
            )
            self._show(step, figures)
            if self._parts.monitor is not None:
                self._parts.monitor.log_dev_evaluation(step, figures)
        if step and step % recipe.checkpoint.every == 0:
            await self._save()
        export = recipe.checkpoint.export_every
        if export is not None and step and step % export == 0:
            await in_thread(self._parts.thread, lambda: self._parts.export(f"step-{step:06d}"))
        return stopped or step >= recipe.steps

    async def _step(self, stop: asyncio.Event) -> bool:
        """Make one step; return False if it was given up."""
        began = time.perf_counter()
        step = self.state.step
        planned = self._ahead or self._start(self.state.cursor, step)
        self._ahead = None
        rolled = await self._rolled_out(planned, stop)
        if rolled is None:
            return False
        marks = [began, time.perf_counter()]
        if self._recipe.rollout.asynchronous and step + 1 < self._recipe.steps:
            self._ahead = self._start(planned.after, step + 1)
            # Let it begin before the update occupies the interpreter.
            await asyncio.sleep(0)
        figures = await in_thread(self._parts.thread, lambda: self._parts.trainer.step(rolled.plan.rows))
        marks.append(time.perf_counter())
        # From here on the weights are the next step's, even if something below fails.
        self._advance(planned, rolled)
        try:
            go_on = await self._ahead_is_done(stop)
            marks.append(time.perf_counter())
            if go_on:
                await self._parts.push(step + 1)
        finally:
            marks.append(time.perf_counter())
            await self._log(planned, rolled, figures, step - planned.version, marks)
        return go_on

    def _start(self, cursor: DataCursor, step: int) -> _Planned:
        """Begin to sample step `step` with the current weights."""
        questions, after = self._parts.source.batch(cursor)
        share = self._process_group.share(questions)
        task = asyncio.ensure_future(self._parts.planner.plan(share, step))
        return _Planned(task, share, after, self.state.step)

    async def _rolled_out(self, planned: _Planned, stop: asyncio.Event) -> _Rolled | None:
        """Wait until all ranks have their rollouts; return None if any rank was stopped or failed."""
        await _first(planned.task, stop)
        failed: BaseException | None = None
        plan: Plan | None = None
        if stop.is_set():
            await _cancelled(planned.task)
        elif (failed := planned.task.exception()) is None:
            plan = planned.task.result()
        own_counts = None
        if plan is not None:
            counts = (plan.complete_trajectories, plan.generated_tokens, plan.scored_tokens)
            own_counts = (dict(plan.metrics), counts)
        gathered = await self._gather(own_counts)
        if failed is not None:
            raise failed
        done = [rank_counts for rank_counts in gathered if rank_counts is not None]
        if plan is None or len(done) < len(gathered):
            return None
        sums = [sum(column) for column in zip(*(counts for _, counts in done), strict=True)]
        return _Rolled(plan, merged([metrics for metrics, _ in done]), (sums[0], sums[1], sums[2]))

    async def _ahead_is_done(self, stop: asyncio.Event) -> bool:
        """Wait for the rollouts of the next step, if they are running; return False if any rank was stopped
        first.

        New weights within a trajectory would mix two policies.
        """
        if self._ahead is None:
            return True
        await _first(self._ahead.task, stop)
        return not await self._any(not self._ahead.task.done())

    def _advance(self, planned: _Planned, rolled: _Rolled) -> None:
        totals = self.state.totals
        trajectories, generated, scored = rolled.counts
        totals = replace(
            totals,
            complete_trajectories=totals.complete_trajectories + trajectories,
            generated_tokens=totals.generated_tokens + generated,
            scored_tokens=totals.scored_tokens + scored,
        )
        self.state = State(self.state.step + 1, planned.after, totals)

    async def _log(
        self,
        planned: _Planned,
        rolled: _Rolled,
        figures: Mapping[str, float],
        staleness: int,
        marks: Sequence[float],
    ) -> None:
        names = ("plan", "train", "wait", "sync")
        seconds = {
            f"seconds/{name}": end - begin for name, begin, end in zip(names, marks, marks[1:], strict=False)
        }
        totals = self.state.totals
        totals = replace(totals, seconds=totals.seconds + marks[-1] - marks[0])
        self.state = replace(self.state, totals=totals)
        step = self.state.step
        line = {
            "epoch": planned.after.epoch,
            **rolled.metrics,
            **figures,
            "staleness": staleness,
            **seconds,
            "seconds/step": marks[-1] - marks[0],
            **{f"total/{name}": value for name, value in asdict(self._totals()).items()},
        }
        if self._parts.monitor is not None:
            self._parts.monitor.log(step, line)
        if self._parts.samples is not None and (step == 1 or step % self._recipe.log.trajectories_every == 0):
            await asyncio.to_thread(
                self._parts.samples.log, step, planned.questions, rolled.plan.trajectories
            )
        self._show(step, line)

    def _totals(self) -> Totals:
        return replace(self.state.totals, wall_seconds=time.perf_counter() - self._wall_began)

    async def _save(self) -> None:
        """Write a checkpoint, unless there is one of this step."""
        if self._saved == self.state.step:
            return
        self.state = replace(self.state, totals=self._totals())
        state = self.state
        await in_thread(self._parts.thread, lambda: self._parts.save(state))
        self._saved = state.step

    async def _drop_ahead(self) -> None:
        if self._ahead is not None:
            await _cancelled(self._ahead.task)
            self._ahead = None

    async def _any(self, flag: bool) -> bool:
        return any(await self._gather(flag))

    async def _gather(self, value: T) -> list[T]:
        """Return every rank's value, gathered in the thread of all collectives: those of two threads could
        cross."""
        return (
            [value]
            if self._process_group.world == 1
            else await in_thread(self._parts.thread, lambda: self._process_group.gather(value))
        )


async def _first(task: asyncio.Task[Any], stop: asyncio.Event) -> None:
    """Wait until the task is done, successfully or not, or `stop` is set."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancelled(stopped)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
