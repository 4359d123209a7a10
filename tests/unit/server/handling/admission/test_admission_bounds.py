"""The exact bounds of admission: shares, debts between keys, rates, and whom a refusal names."""

from __future__ import annotations

import asyncio

import pytest

from mirl_core.errors import BusyError
from mirl_server.handling.admission import Kind
from tests.unit.server.handling.admission.admission_cases import crowd, make

FULL = "too many requests are waiting; try again in 4 s"


@pytest.mark.parametrize(("kind", "sequences", "tokens"), [("gated", 75, 750), ("plain", 25, 250)])
async def test_a_large_request_counts_as_its_kinds_share(kind: Kind, sequences: int, tokens: int) -> None:
    admission = make(100, plain_share=0.25, max_running_tokens=1000)
    async with admission.admit("a", 10**6, 10**6, kind=kind):
        assert (admission.running(kind), admission.running_tokens(kind)) == (sequences, tokens)
    for size, counted in ((0, 1), (1, 1), (2, 2)):
        async with admission.admit("a", size, size, kind=kind):
            assert (admission.running(kind), admission.running_tokens(kind)) == (counted, size)


async def test_tokens_of_a_kind_stay_within_its_share_while_the_other_waits() -> None:
    async with crowd(make(100, plain_share=0.25, max_running_tokens=1000)) as many:
        await many.ask("gated", tokens=700)
        await many.ask("plain", kind="plain", tokens=100)
        await many.ask("plain next", kind="plain", tokens=250)
        await many.ask("gated next", tokens=100)  # 900 of 1000 tokens, but 800 of the kind's 750
        assert many.started == ["gated", "plain"]


async def test_a_kind_may_use_its_whole_share_of_tokens_while_the_other_waits() -> None:
    async with crowd(make(100, plain_share=0.25, max_running_tokens=1000)) as many:
        await many.ask("gated", tokens=740)
        await many.ask("plain", kind="plain", tokens=250)
        await many.ask("plain next", kind="plain", tokens=250)
        await many.ask("gated next", tokens=750)
        assert many.started == ["gated", "plain"]
        await many.end("gated")
        assert many.started == ["gated", "plain", "gated next"]


@pytest.mark.parametrize(
    ("share", "sizes", "first"),
    # Sequences that stay: 3 of 4 beside 1 of 4, and 1 of 6 beside 1 of 2.
    [(0.5, {"large": 4, "stays": 3}, "plain next"), (0.25, {"large": 6, "stays": 1}, "gated next")],
)
async def test_the_kind_that_uses_less_of_its_share_is_first(
    share: float, sizes: dict[str, int], first: str
) -> None:
    async with crowd(make(8, plain_share=share)) as many:
        await many.ask("plain", sequences=1, kind="plain")
        for name, size in sizes.items():
            await many.ask(name, sequences=size)
        await many.ask("gated next", sequences=1)
        await many.ask("plain next", sequences=1, kind="plain")
        assert many.started == ["plain", *sizes]
        await many.end("large")
        assert many.started[3] == first
        assert sorted(many.started[3:]) == ["gated next", "plain next"]


async def test_a_new_key_starts_where_the_service_is() -> None:
    async with crowd(make(3, plain_share=0.01)) as many:
        await many.ask("first", "served", weight=4.0)
        await many.ask("second", "served", weight=4.0)
        await many.ask("new", "new", weight=1.0)
        await many.end("first")
        assert many.started == ["first", "new"]


async def test_service_is_a_debt_while_anything_runs() -> None:
    async with crowd(make(5, plain_share=0.01)) as many:
        await many.ask("one", "served")
        await many.ask("two", "served")
        await many.end("one")  # nobody waits, and `two` still runs
        await many.ask("other", "other")
        await many.ask("three", "served")
        await many.ask("new", "new")
        await many.end("two")
        assert many.started == ["one", "two", "other", "new"]


async def test_service_is_no_debt_after_a_pause() -> None:
    async with crowd(make(3, plain_share=0.01)) as many:
        await many.ask("past", "served")
        await many.end("past")
        await many.ask("now", "other")
        await many.ask("next", "served")
        await many.ask("new", "new")
        await many.end("now")
        assert many.started == ["past", "now", "next"]


async def test_a_key_without_a_debt_may_end_more_than_once() -> None:
    async with crowd(make(7, plain_share=0.01)) as many:
        for name, key in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            await many.ask(name, key)
        await many.end("b1")
        await many.ask("b2", "b")
        await many.end("a1", "a2", "b2")
        assert [task.exception() for task in many.tasks] == [None] * 4


async def test_of_two_keys_with_equal_lines_the_newcomer_is_refused() -> None:
    async with crowd(make(3, max_queue=3, plain_share=0.01)) as many:
        await many.ask("runs")
        waiting = [await many.ask(f"{key}{number}", key) for key, number in (("x", 1), ("x", 2), ("y", 1))]
        with pytest.raises(BusyError):
            await (await many.ask("y2", "y"))
        assert [task.done() for task in waiting] == [False] * 3


async def test_no_request_overtakes_a_waiting_request() -> None:
    async with crowd(make(10, plain_share=0.1)) as many:
        await many.ask("runs", sequences=4)
        assert many.admission.has_room(5, 0, "gated")
        await many.ask("waits", sequences=9)
        assert not many.admission.has_room(1, 0, "gated")


async def test_a_queue_with_room_is_open_to_every_key() -> None:
    admission = make(3, max_queue=2, plain_share=0.01)
    none = make(3, max_queue=0, plain_share=0.01)
    none.check_queue("a", "gated")  # nobody waits: `admit` may let it run
    async with crowd(admission) as many:
        await many.ask("runs")
        await many.ask("waits")
        admission.check_queue("a", "gated")
        await many.ask("waits too")
        with pytest.raises(BusyError):
            admission.check_queue("a", "gated")
        admission.check_queue("b", "gated")


async def test_refusals_before_and_after_the_wait_name_key_and_seconds() -> None:
    now = [0.0]
    refused: list[tuple[str, str]] = []
    admission = make(100, now, max_queue=2, plain_share=0.01)
    admission.refused = lambda reason, key: refused.append((reason, key))
    async with admission.admit("b", 20):
        now[0] += 4  # five sequences a second
    async with crowd(admission) as many:
        await many.ask("runs", "b", 99)
        await many.ask("waits", "a", 10)
        with pytest.raises(BusyError) as caught:
            async with asyncio.timeout(10):
                await (await many.ask("too long", "a", 5, deadline=0))
        # 15 sequences of its key wait, itself among them.
        assert caught.value.retry_after == 4.0
        assert caught.value.message == "there was no room in time; try again in 4 s"
        await many.ask("waits too", "a", 9)
        with pytest.raises(BusyError) as caught:
            admission.check_queue("a", "gated")
        assert (caught.value.message, caught.value.retry_after) == (FULL, 4.0)
    assert refused == [("queue_timeout", "a"), ("queue_full", "a")]


async def test_the_rate_is_of_the_last_256_requests() -> None:
    now = [0.0]
    admission = make(100, now, max_queue=0, plain_share=0.01)
    for _ in range(300):
        async with admission.admit("a", 2):
            now[0] += 0.125
    async with admission.admit("b", 99):
        with pytest.raises(BusyError) as caught:
            async with admission.admit("a", 64):
                pass
    # The first of them ended after 45 of the 300.
    assert caught.value.retry_after == pytest.approx(64 / (512 / ((300 - 45) * 0.125)), rel=1e-9)
