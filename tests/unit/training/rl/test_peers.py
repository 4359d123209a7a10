"""Figures of several ranks in one line."""

from __future__ import annotations

import pytest

from mirl_core.training.rl.peers import Peers, merged


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
    shares = [Peers(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    peers = Peers.from_environment()
    assert (peers.rank, peers.world, peers.first) == (2, 4, False)


def test_one_process_needs_no_group() -> None:
    assert Peers().gather("x") == ["x"]
    assert Peers().any(True)
    assert not Peers().any(False)
