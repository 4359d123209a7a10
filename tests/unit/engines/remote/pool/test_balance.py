"""The choice of a server: load first, then the key, and how little a change of servers moves."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mirl_core.engines.remote.pool.balance import choose


@dataclass
class Loaded:
    name: str
    in_flight: int = 0
    picked: int = 0


loads = st.lists(st.integers(0, 40), min_size=1, max_size=6)


def servers_with(counts: list[int]) -> list[Loaded]:
    return [Loaded(f"http://{number}", count) for number, count in enumerate(counts)]


@given(loads)
def test_without_a_key_the_least_loaded_server_is_chosen(counts: list[int]) -> None:
    assert choose(servers_with(counts), None, 16).in_flight == min(counts)


def test_without_a_key_idle_servers_take_turns() -> None:
    servers = servers_with([0, 0, 0])
    names = []
    for _ in range(6):
        chosen = choose(servers, None, 16)
        chosen.picked += 1
        names.append(chosen.name)
    assert names[:3] == names[3:]
    assert len(set(names)) == 3


@given(loads, st.text(), st.integers(0, 20))
def test_a_key_never_goes_beyond_the_slack(counts: list[int], key: str, slack: int) -> None:
    assert choose(servers_with(counts), key, slack).in_flight <= min(counts) + slack


@given(st.integers(2, 6), st.text())
def test_a_key_has_its_server_whatever_the_order(count: int, key: str) -> None:
    servers = servers_with([0] * count)
    assert choose(servers, key, 0).name == choose(servers[::-1], key, 0).name


@given(st.integers(2, 6), st.text())
def test_a_server_that_leaves_moves_only_its_own_keys(count: int, key: str) -> None:
    servers = servers_with([0] * count)
    chosen = choose(servers, key, 0)
    for gone in servers:
        rest = [server for server in servers if server is not gone]
        assert gone is chosen or choose(rest, key, 0) is chosen


def test_keys_are_spread_over_the_servers() -> None:
    servers = servers_with([0] * 4)
    counts = dict.fromkeys((server.name for server in servers), 0)
    for number in range(1000):
        counts[choose(servers, f"key {number}", 0).name] += 1
    assert min(counts.values()) > 200
