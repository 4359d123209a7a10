"""Admission's waits: Retry-After, shares of the kinds, and room."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mirl_core.errors import BusyError, DrainingError
from mirl_server.handling.admission import Admission
from mirl_server.settings.limits import AdmissionSettings
from tests.helpers.waiting import until


def make(now: list[float], capacity: int = 100, **how: Any) -> Admission:
    settings = AdmissionSettings(
        max_running_sequences=capacity, **{"plain_share": 0.01, "max_queue": 0, **how}
    )
    return Admission(settings, clock=lambda: now[0])


async def served(admission: Admission, now: list[float], sequences: int, seconds: float) -> None:
    async with admission.admit("a", sequences):
        now[0] += seconds


async def refusal(admission: Admission, sequences: int, key: str = "a") -> BusyError:
    with pytest.raises(BusyError) as caught:
        async with admission.admit(key, sequences):
            pass
    return caught.value


@pytest.mark.parametrize(
    ("before", "seconds", "sequences", "wait"),
    [
        (20, 4.0, 30, 6.0),  # 5 a second
        (20, 4.0, 5, 1.0),
        (20, 4.0, 4, 1.0),  # never less than a second
        (50, 50.0, 59, 59.0),
        (50, 50.0, 60, 60.0),
        (50, 50.0, 61, 60.0),  # never more than a minute
        (1, 40.0, 99, 60.0),
        (30, 0.5, 90, 3.0),  # a rate is taken from a second at least
    ],
)
async def test_the_wait_by_what_was_served(before: int, seconds: float, sequences: int, wait: float) -> None:
    now = [0.0]
    admission = make(now)
    await served(admission, now, before, seconds)
    async with admission.admit("b", 99):
        error = await refusal(admission, sequences)
    assert error.retry_after == pytest.approx(wait, rel=1e-9)
    assert str(error) == f"too many requests are waiting; try again in {wait:.0f} s"


async def test_without_any_service_yet_the_wait_is_a_guess() -> None:
    now = [0.0]
    admission = make(now)
    async with admission.admit("b", 99):
        error = await refusal(admission, 2)
    assert (error.retry_after, str(error)) == (5.0, "too many requests are waiting; try again in 5 s")


async def test_service_is_forgotten_after_a_minute_of_work() -> None:
    now = [0.0]
    admission = make(now)
    await served(admission, now, 40, 20.0)
    await served(admission, now, 10, 60.0)
    # The 40 ended 60 s of work ago, which is as far back as is looked.
    async with admission.admit("b", 99):
        assert (await refusal(admission, 25)).retry_after == pytest.approx(25 / (50 / 60))
    await served(admission, now, 5, 0.5)
    async with admission.admit("b", 99):
        assert (await refusal(admission, 3)).retry_after == pytest.approx(3 / ((99 + 15) / 60), rel=0.5)


async def test_a_keys_own_line_moves_at_its_share() -> None:
    now = [0.0]
    admission = make(now, max_queue=3)
    await served(admission, now, 60, 60.0)  # one a second
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        await stack.enter_async_context(admission.admit("b", 99))
        waiting = [
            group.create_task(admission.admit(key, sequences).__aenter__())
            for key, sequences in (("a", 6), ("b", 20), ("b", 2))
        ]
        await until(lambda: admission.queued("gated") == 3)
        assert admission.queued_by_key("gated") == {"a": 1, "b": 2}
        assert admission.queued_sequences("gated") == 28
        # `b` has the longest line: twice its own 22, but no more than all 28, and then itself.
        assert (await refusal(admission, 7, "b")).retry_after == pytest.approx(28 + 7)
        for task in waiting:
            task.cancel()


async def test_admission_yields_the_seconds_of_the_wait() -> None:
    now = [100.0]
    admission = make(now, 3, max_queue=9)

    async def wait() -> float:
        async with admission.admit("a", 2) as waited:
            return waited

    async with admission.admit("a", 2) as at_once:
        waiting = asyncio.create_task(wait())
        await until(lambda: admission.queued("gated") == 1)
        now[0] += 7.5
    assert (at_once, await waiting) == (0, 7.5)


async def test_draining_names_a_time() -> None:
    admission = make([0.0])
    admission.drain()
    with pytest.raises(DrainingError, match="the server is shutting down; send the request again") as caught:
        async with admission.admit("a", 1):
            pass
    assert caught.value.retry_after == 5


@pytest.mark.parametrize(
    ("settings", "sequences", "capacity", "shares"),
    [
        ({}, 512, 512, (384, 128)),
        ({"max_running_sequences": 10}, 512, 10, (8, 2)),
        ({"max_running_sequences": 2, "plain_share": 0.9}, 512, 2, (1, 1)),
        ({"plain_share": 0.01}, 10, 10, (9, 1)),
        ({}, 1, 2, (1, 1)),
    ],
)
def test_each_kinds_share(
    settings: dict[str, Any], sequences: int, capacity: int, shares: tuple[int, int]
) -> None:
    admission = Admission(AdmissionSettings(**settings), sequences)
    assert admission.capacity == capacity
    assert (admission._lanes["gated"].share, admission._lanes["plain"].share) == shares
    assert Admission().capacity == 512


@pytest.mark.parametrize(
    ("sequences", "tokens", "room"),
    [(7, 70, True), (8, 70, False), (7, 71, False), (1, 1, True), (0, 0, True), (999, 10**9, False)],
)
async def test_whether_there_is_room(sequences: int, tokens: int, room: bool) -> None:
    admission = make([0.0], 10, plain_share=0.2, max_running_tokens=100)
    async with admission.admit("a", 3, 30):
        assert admission.has_room(sequences, tokens, "gated") is room
        assert admission.running_tokens("gated") == 30
        assert admission.has_room(sequences, tokens, "plain")  # of which less is taken for all of its share
        admission.drain()
        assert not admission.has_room(1, 1, "gated")
