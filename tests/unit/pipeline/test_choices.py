"""Several choices of one request, on the pipeline itself: limit, shared budget, rendering."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mirl_core.config import Limits, MIRLOptions
from mirl_core.engines.base import Rendered, RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import DeadlineError, RequestError
from mirl_core.pipeline.choices import check_count, run_choices
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, Result
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION, SETTINGS, THREE, chain, result_of

LONG = [chain("1", " ".join(["so"] * 20))]
FEW: dict[str, Any] = {"descriptions": 3, "keep": 2, "forks": 2, "early_stop": False}


async def results_of(engine: FakeEngine, n: int, **options: Any) -> tuple[Result, ...]:
    sampling = Sampling(max_tokens=64, seed=1)
    run = run_choices(Pipeline(engine, SETTINGS), CONVERSATION, MIRLOptions(**options), sampling, CONTEXT, n)
    events = [event async for event in run]
    assert [event.results for event in events[:-1]] == [None] * (len(events) - 1)
    assert isinstance(events[-1].event, Finished)
    assert events[-1].results is not None
    return events[-1].results


def test_the_operators_limit_is_the_most_that_is_allowed() -> None:
    limits = Limits(max_choices=3)
    check_count(3, limits)
    with pytest.raises(RequestError, match=r"^n is 4; this server allows at most 3$") as caught:
        check_count(4, limits)
    assert caught.value.param == "n"


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_choices_share_the_budget_evenly(n: int) -> None:
    share = 60
    generated = [
        sum(stage.generated_tokens for stage in result.stages)
        for result in await results_of(FakeEngine(THREE, LONG), n, max_total_tokens=n * share + n - 1, **FEW)
    ]
    within = await result_of(FakeEngine(THREE, LONG), max_total_tokens=share, **FEW)
    free = await result_of(FakeEngine(THREE, LONG), **FEW)
    alone = sum(stage.generated_tokens for stage in within.stages)
    assert alone <= share < sum(stage.generated_tokens for stage in free.stages)
    assert generated == [alone] * n


@pytest.mark.parametrize("n", [2, 70])
async def test_a_share_that_is_too_small_is_refused(n: int) -> None:
    with pytest.raises(RequestError) as caught:
        await results_of(FakeEngine(THREE, LONG), n, max_total_tokens=60 if n == 70 else 2, **FEW)
    assert caught.value.param == "mirl.max_total_tokens"


class RendersSlowly(FakeEngine):
    """An engine that takes half a second to render a conversation with its image."""

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        if conversation.images:
            await asyncio.sleep(0.5)
        return await super().render(conversation, context)


async def test_a_single_choice_renders_within_its_time_limit() -> None:
    with pytest.raises(DeadlineError):
        await results_of(RendersSlowly(THREE, LONG), 1, timeout=0.45, **FEW)
