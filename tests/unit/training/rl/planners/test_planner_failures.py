"""What a step's failures leave: failing rewards, questions and engines, and cancelled steps."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from mirl_core.errors import EngineError, RequestError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners import make_planner
from mirl_core.training.rl.rewards import Judge
from mirl_core.training.rl.rewards.mi_scorers import ScoredMI
from mirl_core.types import Chain
from tests.unit.training.rl.planners.rollout_cases import SETTINGS, engine, planner, question, recipe

QUESTIONS = (question(0), question(1))


class Raising:
    name, weight = "raising", 1.0

    def score(self, question: Question, chain: Chain) -> float:
        raise RuntimeError("no")


async def test_a_reward_that_fails_is_counted() -> None:
    plan = await planner(engine(), recipe(), rewards=[Raising()]).plan(QUESTIONS, 0)
    assert plan.metrics["rewards/failed"] == 8
    assert plan.metrics["reward/answer"] == 0


@pytest.mark.parametrize("name", ["mirl", "grpo"])
async def test_a_question_that_the_engine_refuses_is_left_out(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    long = replace(question(1), text="word " * 5000)
    with caplog.at_level(logging.WARNING):
        plan = await planner(engine(), recipe(name)).plan((question(0), long), 0)
    assert plan.metrics["questions/failed"] == 1
    assert {row.group.partition("/")[0] for row in plan.rows} == {"q0"}
    assert "q1" in caplog.text
    assert "word" not in caplog.text
    with pytest.raises(RequestError):
        await planner(engine(), recipe(name)).plan((long,), 0)


@pytest.mark.parametrize("serial", [True, False])
async def test_an_engine_that_fails_ends_the_step_and_leaves_nothing_running(serial: bool) -> None:
    source = engine(delay=0.001, fail_at={"fork": EngineError("gone")})
    with pytest.raises(EngineError):
        await planner(source, recipe(rollout__serial=serial)).plan(QUESTIONS, 0)
    assert source.running == 0


async def test_a_cancelled_step_leaves_nothing_running() -> None:
    source = engine(delay=0.01)
    step = asyncio.create_task(planner(source, recipe()).plan(QUESTIONS, 0))
    await asyncio.sleep(0.05)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert source.running == 0


class Hanging:
    """A scorer that never ends by itself."""

    def __init__(self) -> None:
        self.began = self.ended = 0

    async def score(self, *arguments: Any) -> list[ScoredMI]:
        self.began += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended += 1
        return []


async def test_scoring_ends_with_the_step() -> None:
    scorer = Hanging()
    source = engine(delay=0.001, fail_at={"fork": EngineError("gone")}, fail_after=1)
    step_planner = make_planner(source, SETTINGS, recipe(), Judge([]), scorer)
    with pytest.raises(EngineError):
        async with asyncio.timeout(20):
            await step_planner.plan(QUESTIONS, 0)
    assert scorer.began == scorer.ended > 0
