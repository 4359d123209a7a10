"""A request's deadline, to the millisecond: on a clock that moves by itself as soon as nothing else does."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mirl_core.errors import RETRY_AFTER, DeadlineError, DrainingError
from mirl_core.pipeline.deadline import Deadline


class Clock(selectors.DefaultSelector):
    """A selector that never waits: it moves the time on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen any more"
            self.now += timeout
        return ready


class Aborts(list[tuple[float, str]]):
    """What was aborted, and when; seconds."""

    async def __call__(self, request_id: str) -> None:
        self.append((round(asyncio.get_running_loop().time(), 3), request_id))


def run(scenario: Callable[[Aborts], Awaitable[None]]) -> Aborts:
    """What `scenario` aborted on a clock of its own, which starts at 0."""
    clock, aborts = Clock(), Aborts()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(scenario(aborts))  # type: ignore[arg-type]
        assert not asyncio.all_tasks(loop)
    finally:
        loop.close()
    return aborts


def test_what_runs_is_aborted_when_the_time_is_over_and_again_every_50_ms() -> None:
    async def scenario(aborts: Aborts) -> None:
        async with Deadline(2.0, aborts) as deadline:
            with deadline.aborts("a"):
                await asyncio.sleep(1.999)
                assert (deadline.passed, aborts) == (False, [])
                await asyncio.sleep(0.002)
                assert deadline.passed
                with deadline.aborts("b"):
                    await asyncio.sleep(0.06)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.1)

    aborts = run(scenario)
    assert sorted(aborts) == [(2.0, "a"), (2.05, "a"), (2.05, "b"), (2.1, "a")]


def test_leaving_ends_the_watch() -> None:
    async def scenario(aborts: Aborts) -> None:
        async with Deadline(1.0, aborts) as deadline:
            with deadline.aborts("a", "b"):
                await asyncio.sleep(1.01)
        await asyncio.sleep(5.0)

    assert sorted(run(scenario)) == [(1.0, "a"), (1.0, "b")]


def test_a_guard_ends_with_an_error_too() -> None:
    async def scenario(aborts: Aborts) -> None:
        async with Deadline(1.0, aborts) as deadline:
            with pytest.raises(ValueError, match="broken"), deadline.aborts("a"):
                raise ValueError("broken")
            await asyncio.sleep(2.0)
            assert deadline.passed

    assert run(scenario) == []


def test_without_a_limit_there_is_no_watch() -> None:
    async def scenario(aborts: Aborts) -> None:
        async with Deadline(None, aborts) as deadline:
            assert len(asyncio.all_tasks()) == 1
            with deadline.aborts("a"):
                await asyncio.sleep(1e6)
            assert not deadline.passed

    assert run(scenario) == []


@pytest.mark.parametrize(("seconds", "closed", "at"), [(None, 3.0, 3.0), (9.0, 3.0, 3.0), (2.0, 3.0, 2.0)])
def test_closing_is_a_deadline_too(seconds: float | None, closed: float, at: float) -> None:
    errors = []

    async def scenario(aborts: Aborts) -> None:
        closing = asyncio.Event()
        asyncio.get_running_loop().call_later(closed, closing.set)
        async with Deadline(seconds, aborts, closing) as deadline:
            with deadline.aborts("a"):
                await asyncio.sleep(at - 0.001)
                assert not deadline.passed
                await asyncio.sleep(0.002)
                assert deadline.passed
            errors.append(deadline.error("while testing"))

    assert run(scenario) == [(at, "a")]
    (error,) = errors
    if at == closed:
        assert isinstance(error, DrainingError)
        assert error.retry_after == RETRY_AFTER == 5.0
        assert error.message == "the server shut down while testing; send the request again"
    else:
        assert isinstance(error, DeadlineError)
        assert (error.message, error.param) == ("mirl.timeout of 2.0 s passed while testing", "mirl.timeout")
