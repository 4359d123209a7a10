"""The circuit breaker: when it opens, how long it waits, when it forgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.engines.remote.pool.breaker import Breaker


def test_it_opens_after_consecutive_failures_only() -> None:
    breaker = Breaker(3)
    assert not breaker.failure(0.0)
    assert not breaker.failure(0.0)
    breaker.success()
    assert not breaker.failure(0.0)
    assert not breaker.failure(0.0)
    assert breaker.failure(0.0)
    assert (breaker.state, breaker.failures) == ("open", 3)
    assert not breaker.failure(0.0), "it is open already"


def test_one_probe_at_a_time_after_a_wait_that_doubles() -> None:
    breaker = Breaker(1, first=1.0, longest=6.0, jitter=0.0)
    waits = []
    now = 0.0
    for _ in range(5):
        breaker.open(now)
        waits.append(breaker.retry_at - now)
        assert not breaker.due(breaker.retry_at - 0.01)
        now = breaker.retry_at
        assert breaker.due(now)
        breaker.begin_probe()
        assert not breaker.due(now + 100.0)
    assert waits == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_a_probe_alone_does_not_shorten_the_wait() -> None:
    breaker = Breaker(1, first=1.0, jitter=0.0)
    for expected in (1.0, 2.0, 4.0):
        breaker.open(0.0)
        assert breaker.retry_at == expected
        breaker.begin_probe()
        breaker.close()
    breaker.success()
    breaker.open(0.0)
    assert breaker.retry_at == 1.0


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 0.7), (0.5, 1.0), (1.0, 1.3)])
def test_jitter(draw: float, wait: float) -> None:
    breaker = Breaker(1, first=1.0, jitter=0.3, draw=lambda: draw)
    breaker.open(10.0)
    assert breaker.retry_at == pytest.approx(10.0 + wait)


@given(st.lists(st.sampled_from(["success", "failure", "open", "begin_probe", "close"])), st.integers(1, 5))
def test_it_is_open_exactly_after_as_many_failures(events: list[str], threshold: int) -> None:
    breaker = Breaker(threshold)
    for event in events:
        before = breaker.state
        if event == "failure":
            opened = breaker.failure(0.0)
            assert opened == (before == "closed" and breaker.failures >= threshold)
        elif event == "open":
            breaker.open(0.0)
        else:
            getattr(breaker, event)()
        if breaker.state == "closed":
            assert breaker.failures < threshold
