"""Who runs, who waits, who is refused: counted in sequences, fair between keys, and nothing is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given, settings, strategies

from mirl_core.errors import BusyError, DrainingError
from mirl_server.handling.admission import KINDS, Kind
from tests.unit.server.handling.admission.admission_cases import crowd, idle, make, settle


async def test_sequences_are_what_counts() -> None:
    async with crowd(make(10, plain_share=0.2)) as many:
        await many.ask("big", sequences=7)
        await many.ask("next", sequences=4)
        await many.ask("small", sequences=1)
        assert many.started == ["big"]  # `small` has room, but it is not its turn
        assert many.admission.running("gated") == 7
        assert many.admission.queued("gated") == 2
        await many.end("big")
        assert many.started == ["big", "next", "small"]


async def test_a_request_larger_than_its_share_counts_as_all_of_it() -> None:
    async with crowd(make(10, plain_share=0.1)) as many:
        await many.ask("one", sequences=2)
        await many.ask("huge", sequences=1000)
        await many.ask("two", sequences=2)
        assert many.started == ["one"]
        await many.end("one")
        assert many.started == ["one", "huge"]
        assert many.admission.running("gated") == 9
        await many.end("huge")
        assert many.started == ["one", "huge", "two"]


async def test_tokens_count_too() -> None:
    async with crowd(make(100, max_running_tokens=1000)) as many:
        await many.ask("one", tokens=600)
        await many.ask("two", tokens=600)
        await many.ask("plain", kind="plain", tokens=250)
        assert many.started == ["one", "plain"]
        await many.end("one")
        assert many.started == ["one", "plain", "two"]
        await many.ask("all", tokens=10**9)
        await many.end("two", "plain")
        assert many.started[-1] == "all"


async def test_a_flooding_key_delays_a_polite_key_by_one_turn() -> None:
    async with crowd(make(4, plain_share=0.01)) as many:
        for number in range(50):
            await many.ask(f"flood{number}", "flood", sequences=3)
        await many.ask("polite", "polite", sequences=3)
        await many.end("flood0")
        assert many.started == ["flood0", "polite"]
        await many.end("polite")
        assert many.started[2:] == ["flood1"]


async def test_keys_share_by_sequences_not_by_requests() -> None:
    async with crowd(make(8, plain_share=0.01)) as many:
        await many.ask("first", "x", sequences=7)
        for number in range(20):
            await many.ask(f"large{number}", "large", sequences=6)
        for number in range(60):
            await many.ask(f"small{number}", "small", sequences=2)
        await many.end("first")
        while len(many.started) < 40:
            await many.end(*many.started)
        served: Counter[str] = Counter()
        for name in many.started[1:]:
            served["large" if name.startswith("large") else "small"] += 6 if name.startswith("large") else 2
        assert abs(served["large"] - served["small"]) <= 12


async def test_weights() -> None:
    async with crowd(make(2, plain_share=0.01)) as many:
        await many.ask("first", "x")
        for number in range(30):
            await many.ask(f"heavy{number}", "heavy", weight=3.0)
            await many.ask(f"light{number}", "light", weight=1.0)
        await many.end("first")
        while len(many.started) < 25:
            await many.end(*many.started)
        heavy = sum(name.startswith("heavy") for name in many.started[1:25])
        assert 17 <= heavy <= 19


@pytest.mark.parametrize(("flood", "other"), [("gated", "plain"), ("plain", "gated")])
async def test_neither_kind_starves_the_other(flood: Kind, other: Kind) -> None:
    async with crowd(make(16, plain_share=0.25)) as many:
        for number in range(40):
            await many.ask(f"flood{number}", f"key{number % 3}", 1, flood)
        assert many.admission.running(flood) == 16  # nobody else is there: all of it
        share = 4 if other == "plain" else 12
        await many.ask("wanted", "b", share, other)
        for number in range(share):
            assert "wanted" not in many.started
            await many.end(many.started[number])
        assert "wanted" in many.started
        assert many.admission.running(flood) == 16 - share


async def test_a_full_line_refuses_and_says_when() -> None:
    now = [0.0]
    refused: list[tuple[str, str]] = []
    admission = make(3, now, max_queue=3, plain_share=0.01)
    admission.refused = lambda reason, key: refused.append((reason, key))
    async with crowd(admission) as many:
        for number in range(4):
            await many.ask(f"a{number}")
        unknown = await many.ask("over")
        with pytest.raises(BusyError) as caught:
            await unknown
        assert caught.value.retry_after == 5
        # One sequence a second, and three of them wait already: this one's turn is the fourth.
        for number in range(20):
            now[0] += 1
            await many.end(f"a{number}")
            await many.ask(f"a{number + 4}")
        with pytest.raises(BusyError) as later:
            await (await many.ask("over again"))
        assert later.value.retry_after == pytest.approx(4, rel=0.3)
        assert refused == [("queue_full", "a")] * 2


async def test_a_stall_makes_the_wait_longer() -> None:
    now = [0.0]
    admission = make(3, now, max_queue=0, plain_share=0.01)
    for _ in range(10):
        async with admission.admit("a", 2):
            now[0] += 1
    waits = []
    async with admission.admit("a", 2):
        for seconds in (0, 40):
            now[0] += seconds
            with pytest.raises(BusyError) as caught:
                async with admission.admit("a", 2):
                    pass
            waits.append(caught.value.retry_after or 0)
    assert waits[0] < 2 < waits[1] <= 60


async def test_the_time_that_nothing_ran_does_not_make_the_wait_longer() -> None:
    now = [0.0]
    admission = make(3, now, max_queue=0, plain_share=0.01)
    for _ in range(3):
        async with admission.admit("a", 2):
            now[0] += 1
        now[0] += 15
    async with admission.admit("a", 2):
        with pytest.raises(BusyError) as caught:
            async with admission.admit("a", 2):
                pass
    assert caught.value.retry_after == pytest.approx(1)  # of two sequences a second


async def test_one_slow_request_is_no_fast_service() -> None:
    now = [0.0]
    admission = make(3, now, max_queue=0, plain_share=0.01)
    async with admission.admit("a", 2):
        now[0] += 20
    async with admission.admit("a", 2):
        with pytest.raises(BusyError) as caught:
            async with admission.admit("a", 2):
                pass
    assert caught.value.retry_after == pytest.approx(20)


async def test_a_full_line_is_shortened_at_its_longest_key() -> None:
    async with crowd(make(3, max_queue=4, plain_share=0.01)) as many:
        flood = [await many.ask(f"flood{number}", "flood") for number in range(5)]
        polite = await many.ask("polite", "polite")
        assert isinstance(flood[4].exception(), BusyError)  # the newest of the longest
        assert not polite.done()
        with pytest.raises(BusyError):
            await (await many.ask("flood5", "flood"))
        with pytest.raises(BusyError):
            many.admission.check_queue("flood", "gated")
        many.admission.check_queue("polite", "gated")
        many.admission.check_queue("flood", "plain")
        await many.end("flood0")
        assert many.started[-1] == "polite"


async def test_who_waits_too_long_is_refused() -> None:
    async with crowd(make(3, queue_seconds=0.05, plain_share=0.01)) as many:
        await many.ask("one")
        began = asyncio.get_running_loop().time()
        with pytest.raises(BusyError) as caught:
            await (await many.ask("two"))
        assert caught.value.retry_after
        with pytest.raises(BusyError):
            await (await many.ask("three", deadline=0.01))
        assert asyncio.get_running_loop().time() - began < 1
        assert many.admission.queued("gated") == 0
        await many.end("one")
        await many.ask("four", deadline=0)
        assert many.started == ["one", "four"]


async def test_who_leaves_the_line_lets_the_next_pass() -> None:
    async with crowd(make(10, plain_share=0.01)) as many:
        await many.ask("one", sequences=5)
        big = await many.ask("big", sequences=9)
        await many.ask("small")
        assert many.started == ["one"]
        big.cancel()
        await settle()
        assert many.started == ["one", "small"]
        assert many.admission.queued("gated") == 0


async def test_cancelled_in_the_moment_of_admission() -> None:
    for cancel_first in (True, False):
        async with crowd(make(3, plain_share=0.01)) as many:
            await many.ask("one")
            waiting = await many.ask("two")
            # Both in one step of the loop: the turn is given to a task that is about to be cancelled.
            if cancel_first:
                waiting.cancel()
                many._ends["one"].set()
            else:
                many._ends["one"].set()
                await asyncio.sleep(0)
                waiting.cancel()
            await settle()
            await many.ask("three")
            assert many.started == ["one", "three"]


async def test_draining() -> None:
    refused: list[tuple[str, str]] = []
    admission = make(3, plain_share=0.01)
    admission.refused = lambda reason, key: refused.append((reason, key))
    async with crowd(admission) as many:
        running = await many.ask("one")
        waiting = await many.ask("two")
        admission.drain()
        await settle()
        assert isinstance(waiting.exception(), DrainingError)
        with pytest.raises(DrainingError):
            await (await many.ask("three"))
        await many.end("one")
        assert running.exception() is None
    assert refused == [("draining", "a")] * 2


async def test_nothing_leaks_over_a_thousand_requests() -> None:
    chance = random.Random(5)
    admission = make(20, max_queue=15, queue_seconds=0.02)
    ends: Counter[str] = Counter()
    most = 0

    async def random_request() -> None:
        nonlocal most
        kind: Kind = chance.choice(KINDS)
        try:
            async with admission.admit(
                f"key{chance.randrange(5)}", chance.randrange(1, 30), chance.randrange(1000), kind=kind,
                deadline=chance.choice([None, 0, 0.005]), weight=chance.choice([1.0, 2.5]),
            ):  # fmt: skip
                most = max(most, sum(admission.running(kind) for kind in KINDS))
                await asyncio.sleep(chance.choice([0, 0.001, 0.003]))
                if chance.random() < 0.1:
                    raise ZeroDivisionError
            ends["served"] += 1
        except (BusyError, ZeroDivisionError) as error:
            ends[type(error).__name__] += 1

    tasks = []
    for _ in range(1000):
        tasks.append(asyncio.create_task(random_request()))
        if chance.random() < 0.2:
            chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.choice([0, 0.001]))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert idle(admission)
    assert most <= 20
    assert min(ends["served"], ends["BusyError"], ends["ZeroDivisionError"]) > 10
    async with admission.admit("after", 15):
        pass


Step = tuple[str, int, int, Kind]
steps = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(["ask", "end", "cancel"]),
        strategies.integers(0, 3),
        strategies.integers(1, 12),
        strategies.sampled_from(KINDS),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps, strategies.integers(2, 10), strategies.integers(0, 5))
def test_whatever_happens_the_rules_hold(script: list[Step], capacity: int, queue: int) -> None:
    async def play() -> None:
        admission = make(capacity, max_queue=queue)
        async with crowd(admission) as many:
            for number, (what, key, size, kind) in enumerate(script):
                if what == "ask":
                    await many.ask(str(number), f"key{key}", size, kind)
                elif what == "end" and many.started:
                    await many.end(many.started[size % len(many.started)])
                elif many.tasks:
                    many.tasks[size % len(many.tasks)].cancel()
                    await settle()
                running = sum(admission.running(kind) for kind in KINDS)
                assert 0 <= running <= capacity
                for kind in KINDS:
                    assert admission.queued(kind) <= queue
                # It is never idle while anybody waits.
                assert running or not any(admission.queued(kind) for kind in KINDS)
            await asyncio.gather(*[many.end(name) for name in many.started])

    asyncio.run(play())
