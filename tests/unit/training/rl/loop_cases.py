"""A run without a model: weights are a number, an update adds to it, rollouts say which weights made them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mirl_core.config import ModelSettings
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.dev_evaluation import DevEvaluation
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.loop import Loop, RunParts, State
from mirl_core.training.rl.planners.question_source import QuestionSet, QuestionSource
from mirl_core.training.rl.planners.rows import Plan, TrainingRow, Trajectory
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.report.monitor import Monitor
from mirl_core.training.rl.report.pages import TrajectoryLog
from mirl_core.types import Conversation

PROMPT = Conversation(({"role": "user", "content": "?"},))


def question(place: int) -> Question:
    return Question(f"q{place}", "How many?", "3", lambda: Image.new("RGB", (8, 8)))


def recipe_of(folder: Path, **changes: Any) -> RLRecipe:
    base: dict[str, Any] = {
        "model": "bundled",
        "output": folder,
        "steps": 6,
        "data": {"questions": 2},
        "checkpoint": {"every": 2},
        "log": {"trajectories_every": 2},
    }
    return RLRecipe.model_validate({**base, **changes})


@dataclass
class World:
    """What the parts share: the policy's weights, the sampler's, and what happened."""

    folder: Path
    weights: float = 0.0
    served: float = 0.0
    events: list[str] = field(default_factory=list)
    saved: dict[int, tuple[State, float]] = field(default_factory=dict)
    exported: list[str] = field(default_factory=list)
    fail_plan: dict[int, Exception] = field(default_factory=dict)
    fail_train: dict[int, Exception] = field(default_factory=dict)
    fail_push: dict[int, Exception] = field(default_factory=dict)
    plan_seconds: float = 0.0
    on_plan: Callable[[int], None] = lambda step: None

    async def plan(self, questions: Sequence[Question], step: int) -> Plan:
        self.events.append(f"plan {step} with {self.served:g}")
        self.on_plan(step)
        before = self.served
        await asyncio.sleep(self.plan_seconds)
        assert self.served == before, "weights changed in the middle of a trajectory"
        if step in self.fail_plan:
            raise self.fail_plan[step]
        worth = float(sum(int(item.key[1:]) for item in questions)) + self.served
        rows = tuple(
            TrainingRow(PROMPT, (1, 2), (True, True), (0.0, 0.0), worth, "reasoning", f"{item.key}/chains")
            for item in questions
        )
        trajectories = tuple(
            Trajectory(item.key, "text", "reasoning", worth, worth, {"exact": worth}, "3", True)
            for item in questions
        )
        return Plan(rows, {"reward/answer": worth, "tokens/fork": 2.0}, trajectories, len(rows), 10, 5)

    def step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        done = sum(event.startswith("train") for event in self.events)
        self.events.append("train")
        if done in self.fail_train:
            raise self.fail_train[done]
        self.weights = self.weights * 0.5 + sum(row.advantage for row in rows)
        return {"loss": self.weights, "grad_norm": 1.0}

    async def push(self, version: int) -> None:
        if version in self.fail_push:
            raise self.fail_push[version]
        self.events.append(f"push {version}")
        self.served = self.weights

    def save(self, state: State) -> None:
        self.events.append(f"save {state.step}")
        self.saved[state.step] = (state, self.weights)

    def parts(self, recipe: RLRecipe, step: int, limit: int = 5) -> RunParts:
        """Parts of a run at `step`; an epoch has `limit` questions."""
        engine = FakeEngine(
            [FakeText("a 3</description>")], ["<think>so</think><answer>3</answer>"], delay=0.0
        )
        source = QuestionSource([QuestionSet("made", limit, question)], recipe.data.questions, recipe.seed)
        evaluation = DevEvaluation(recipe, ModelSettings(instruction=""), ProcessGroup())
        evaluation.open(step)
        return RunParts(
            engine=engine,
            source=source,
            planner=self,
            trainer=self,
            push=self.push,
            save=self.save,
            export=self.exported.append,
            dev_evaluation=evaluation,
            monitor=Monitor(recipe.output, recipe.log, step, {}),
            samples=TrajectoryLog(recipe.output, step),
            thread=ThreadPoolExecutor(1),
        )


async def run(
    world: World,
    recipe: RLRecipe,
    *,
    stop: asyncio.Event | None = None,
    until: float | None = None,
    shown: list[tuple[int, Mapping[str, float]]] | None = None,
) -> bool:
    """One process's run from the world's newest save on."""
    recipe.output.mkdir(parents=True, exist_ok=True)
    state, saved = State(), None
    if world.saved:
        saved = max(world.saved)
        state, world.weights = world.saved[saved]
        world.served = world.weights
    parts = world.parts(recipe, state.step)

    def show(step: int, figures: Mapping[str, float]) -> None:
        if shown is not None:
            shown.append((step, figures))

    try:
        return await Loop(recipe, parts, ProcessGroup(), state, saved, show).run(
            stop or asyncio.Event(), until
        )
    finally:
        assert parts.monitor is not None
        assert parts.samples is not None
        for resource in (parts.monitor, parts.samples, parts.dev_evaluation):
            resource.close()
        parts.thread.shutdown()
