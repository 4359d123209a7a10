"""Runs that end before their time: deadlines, a pipeline that closes, a dead engine, a reader that leaves."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import DeadlineError, DrainingError, EngineDeadError
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Result
from tests.unit.pipeline.pipeline_cases import (
    CONTEXT,
    CONVERSATION,
    SETTINGS,
    THREE,
    chain,
    finished,
    result_of,
)


async def test_deadline_returns_the_best_vote_so_far() -> None:
    def slow(suffix: str, branch: int) -> FakeText:
        return FakeText(chain("1"), delay=0.0) if "dog" in suffix else FakeText(chain("2"), delay=5.0)

    engine = FakeEngine(THREE, slow)
    own: dict[str, Any] = {"descriptions": 3, "keep": 3, "forks": 1}
    settings = ModelSettings(
        instruction="",
        options=MIRLOptions(**own),
        calibration=Calibration(intercept=0, vote_share=1, distinct_share=1),
    )
    result = await result_of(engine, settings=settings, **own, timeout=0.2)
    assert result.partial
    assert result.content == "1"
    assert (result.confidence, result.calibrated) == (1.0, False), "one vote of three is none that was fitted"
    assert engine.running == 0


@pytest.mark.parametrize("stage", ["describe", "fork"])
async def test_deadline_with_nothing_to_return(stage: str) -> None:
    slow = FakeText("a cat </description>" if stage == "describe" else chain("1"), delay=5.0)
    engine = FakeEngine([slow]) if stage == "describe" else FakeEngine(THREE, [slow])
    with pytest.raises(DeadlineError):
        await result_of(engine, descriptions=3, timeout=0.1)
    assert engine.running == 0


async def closed_after(engine: FakeEngine, seconds: float, **options: Any) -> Result:
    """The result of a run whose pipeline closes meanwhile."""
    pipeline = Pipeline(engine, SETTINGS, closing=asyncio.Event()).over(engine)
    assert pipeline.closing is not None
    asyncio.get_running_loop().call_later(seconds, pipeline.closing.set)
    run = pipeline.run(CONVERSATION, MIRLOptions(**options), Sampling(max_tokens=64, seed=1), CONTEXT)
    return finished([event async for event in run])


async def test_closing_returns_the_best_vote_so_far() -> None:
    def slow(suffix: str, branch: int) -> FakeText:
        return FakeText(chain("1" if "dog" in suffix else "2"), delay=0.0 if "dog" in suffix else 5.0)

    engine = FakeEngine(THREE, slow)
    result = await closed_after(engine, 0.2, descriptions=3, keep=3, forks=1)
    assert (result.partial, result.content) == (True, "1")
    assert engine.running == 0


@pytest.mark.parametrize("options", [{}, {"timeout": 5.0}], ids=["endless", "limited"])
@pytest.mark.parametrize("stage", ["describe", "fork"])
async def test_closing_with_nothing_to_return(stage: str, options: dict[str, Any]) -> None:
    slow = FakeText("a cat </description>" if stage == "describe" else chain("1"), delay=5.0)
    engine = FakeEngine([slow]) if stage == "describe" else FakeEngine(THREE, [slow])
    with pytest.raises(DrainingError, match="send the request again"):
        await closed_after(engine, 0.1, descriptions=3, **options)
    assert engine.running == 0


@pytest.mark.parametrize("kind", ["render", "describe", "score", "fork"])
async def test_engine_death_surfaces_and_leaves_nothing_running(kind: str) -> None:
    engine = FakeEngine(THREE, fail_at={kind: EngineDeadError("gone")}, fail_after=1, delay=0.001)
    with pytest.raises(EngineDeadError):
        await result_of(engine, descriptions=3)
    assert engine.running == 0


async def test_cancelling_the_reader_frees_the_engine() -> None:
    engine = FakeEngine(THREE, delay=0.01)

    async def read() -> None:
        async with aclosing(
            Pipeline(engine, SETTINGS).run(CONVERSATION, MIRLOptions(), Sampling(max_tokens=64), CONTEXT)
        ) as events:
            async for _ in events:
                pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.015)
    assert engine.running > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == 0
