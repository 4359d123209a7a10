"""Figures of several ranks in one line."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from mirl_core.training.rl import run
from mirl_core.training.rl.distributed.process_group import ProcessGroup, merged


def test_counts_are_added_times_are_the_longest_the_rest_is_averaged() -> None:
    assert merged(
        [
            {"tokens/fork": 2.0, "groups/flat": 1.0, "seconds/fork": 3.0, "reward/answer": 0.5, "only": 4.0},
            {"tokens/fork": 3.0, "groups/flat": 0.0, "seconds/fork": 1.0, "reward/answer": 1.0},
        ]
    ) == {"tokens/fork": 5.0, "groups/flat": 1.0, "seconds/fork": 3.0, "reward/answer": 0.75, "only": 4.0}
    assert merged([{"rewards/exact/failed": 1.0, "ratio/max": 2.0}, {"rewards/exact/failed": 2.0}]) == {
        "rewards/exact/failed": 3.0,
        "ratio/max": 2.0,
    }


def test_one_line_stays_bit_for_bit() -> None:
    line = {"reward/answer": 1 / 3, "tokens/fork": 7.0}
    assert merged([line]) == line


def test_shares_are_disjoint_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(7))
    shares = [ProcessGroup(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    peers = ProcessGroup.from_environment()
    assert (peers.rank, peers.world, peers.first) == (2, 4, False)


def test_one_process_needs_no_group() -> None:
    assert ProcessGroup().gather("x") == ["x"]
    assert ProcessGroup().any(True)
    assert not ProcessGroup().any(False)


async def test_one_process_brings_its_own_failure() -> None:
    with ThreadPoolExecutor(1) as thread:
        assert await ProcessGroup().failures(thread, None) == []
        assert await ProcessGroup().failures(thread, "no server took the weights") == [
            "no server took the weights"
        ]


@pytest.mark.parametrize(
    ("finished", "signals", "expected"),
    [
        (False, [0, signal.SIGTERM], [signal.SIGTERM]),
        (False, [0, 0], []),
        (True, [0, signal.SIGTERM], []),
    ],
    ids=["another was told to", "time was over", "done"],
)
async def test_a_rank_that_stops_because_another_was_signalled_exits_as_that_rank(
    monkeypatch: pytest.MonkeyPatch, finished: bool, signals: list[int], expected: list[int]
) -> None:
    async def train(*arguments: Any) -> bool:
        return finished

    monkeypatch.setattr(run, "train", train)
    peers: Any = SimpleNamespace(world=2, gather=lambda value: signals)
    received: list[int] = []
    try:
        assert await run._until_stopped(None, peers, None, None, received) == finished  # type: ignore[arg-type]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
    assert received == expected
