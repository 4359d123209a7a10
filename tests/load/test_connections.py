"""Connections that behave oddly, on a real server: slow readers, half-closed sockets, requests cut short."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httptools
import pytest

from tests.helpers.servers import GuardedServer, RunningServer
from tests.helpers.waiting import wait_until
from tests.load.asks import gated, text
from tests.load.driver import Ask, End, driving, of
from tests.load.idleness import idle
from tests.load.inside import Inside
from tests.load.raw import CHAT, connect, dial, drop, head, rest

WRITE_SECONDS = 2
"""Of the guarded server."""
# A token's rivals make a stream of megabytes, more than sockets hold.
LARGE: dict[str, Any] = {
    "n": 8, "max_tokens": 200, "ignore_eos": True, "logprobs": True, "top_logprobs": 20, "stream": True,
}  # fmt: skip


def admitted(server: RunningServer) -> float:
    return server.gauge("mirl_admitted_sequences")


def test_who_stops_reading_is_cut_and_slows_nobody(guarded: GuardedServer) -> None:
    key = guarded.keys["one"]
    asyncio.run(idle(guarded))
    body = text(key, **LARGE).body | {"n": 16, "max_tokens": 1800}
    with connect(guarded, body, key=key) as reader, ThreadPoolExecutor() as thread:
        wait_until(lambda: admitted(guarded) == 16, 5)
        reading = thread.submit(rest, reader)
        beside_reader = _seconds_of_three(guarded)
        reader.shutdown(socket.SHUT_RDWR)
        assert reading.result()
    asyncio.run(idle(guarded))
    tokens = guarded.gauge("vllm:generation_tokens_total")
    with connect(guarded, body, key=key, window=4096) as stopped:
        wait_until(lambda: admitted(guarded) == 16, 5)
        beside = _seconds_of_three(guarded)
        cut = wait_until(lambda: admitted(guarded) == 0, WRITE_SECONDS + 10)
        freed = wait_until(lambda: guarded.sequences() == 0, 5)
        assert b"[DONE]" not in rest(stopped)
    print(f"a request took {beside_reader:.2f} s beside one that reads all and {beside:.2f} s beside one")
    print(
        f"that reads nothing, which was cut {cut:.1f} s later; the engine was idle {freed:.2f} s after that"
    )
    # Cut in the middle of its work, which was stopped with it.
    assert guarded.gauge("vllm:generation_tokens_total") - tokens < 16 * 1800
    assert freed < 1
    assert beside < 2 * beside_reader + 0.5


def test_who_reads_slowly_but_reads_gets_all_of_it(guarded: GuardedServer) -> None:
    key, began, read = guarded.keys["one"], time.monotonic(), b""
    body = text(key, **LARGE).body
    with connect(guarded, body, key=key, window=4096) as slow:
        while b"[DONE]" not in read[-40:]:
            read += (part := slow.recv(100_000))
            assert part
            time.sleep(len(part) / 800_000)
    seconds = time.monotonic() - began
    print(f"{len(read) / 1e6:.1f} MB read in {seconds:.1f} s")
    assert seconds > WRITE_SECONDS
    asyncio.run(idle(guarded))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("made", [gated, text])
def test_who_half_closes_gets_the_answer(guarded: GuardedServer, made: Any, stream: bool) -> None:
    """The client sends its request and the end of its side, and reads: netcat does so, and some libraries."""
    key = guarded.keys["one"]
    body = made(stream=stream).body | {"max_tokens": 200}
    with connect(guarded, body, key=key) as connection:
        connection.shutdown(1)
        said = rest(connection)
    answers = _Answers()
    httptools.HttpResponseParser(answers).feed_data(said)
    assert answers.reasons[-1] == b"OK", answers.reasons
    if stream:
        assert answers.body.rstrip().endswith(b"data: [DONE]")
    else:
        assert json.loads(answers.body)["choices"]
    asyncio.run(idle(guarded))


@pytest.mark.parametrize("how", ["close", "reset"])
def test_requests_that_never_are_whole_leave_nothing(guarded: GuardedServer, how: str) -> None:
    """Left after some of the headers, after the headers, in the middle of the body, or without a word."""
    asyncio.run(idle(guarded))
    files = Inside.of(guarded).files
    whole = head(CHAT, 1000, guarded.keys["one"])
    for cut in (b"", whole[:30], whole, whole + b'{"model": "mirl'):
        for _ in range(5):
            connection = dial(guarded)
            connection.sendall(cut)
            time.sleep(0.01)
            drop(connection, how)
    assert wait_until(lambda: Inside.of(guarded).files <= files + 1, 5) < 5
    asyncio.run(idle(guarded))
    assert guarded.sequences() == 0


def test_idle_connections_are_closed(guarded: GuardedServer) -> None:
    """Those that never say a word, by the limit on headers."""
    with ExitStack() as held:
        silent = [held.enter_context(dial(guarded)) for _ in range(30)]
        began = time.monotonic()
        assert {connection.recv(10) for connection in silent} == {b""}
        assert time.monotonic() - began < 4


def test_deadlines_under_load(guarded: GuardedServer) -> None:
    """Each ends soon after its time: with an answer, whole or marked partial, or with an error."""
    ends = asyncio.run(deadlines(guarded))
    partial = _partial(ends)
    print(f"statuses {sorted(end.status for end in ends)}, {len(partial)} partial")
    assert {end.status for end in ends} <= {200, 429, 504}
    assert partial
    for end in ends:
        assert end.seconds < end.ask.body["mirl"]["timeout"] + 1
    for end in partial:
        assert end.body["choices"][0]["message"]["content"]


async def deadlines(server: GuardedServer, rounds: int = 8) -> list[End]:
    """What came of requests with little time; afterwards the server is idle.

    Whose time ends between its first chain's end and its last one's is the machine's and the moment's, so the
    times are spread, and there are rounds until one's did.
    """
    ends: list[End] = []
    async with driving(server.url) as driver:
        for number in range(rounds):
            asks = [_hasty(server.keys["one"], seed) for seed in range(24 * number, 24 * (number + 1))]
            ends += await asyncio.gather(*map(driver.send, asks))
            if _partial(ends):
                break
    await idle(server)
    return ends


def _hasty(key: str, seed: int) -> Ask:
    knobs = {"descriptions": 6, "keep": 6, "forks": 3, "gate": "none", "early_stop": False}
    seconds = 0.3 * 1.35 ** (seed % 12)
    return gated(key, seed=seed, max_tokens=300, temperature=2.0, mirl={**knobs, "timeout": seconds})


def _partial(ends: list[End]) -> list[End]:
    return [end for end in of(ends, status=200) if end.body["mirl"]["partial"]]


class _Answers:
    """What a client finds that knows no more than HTTP/1.1."""

    def __init__(self) -> None:
        self.reasons: list[bytes] = []
        self.body = b""

    def on_status(self, reason: bytes) -> None:
        self.reasons.append(reason)

    def on_body(self, body: bytes) -> None:
        self.body += body


def _seconds_of_three(server: GuardedServer) -> float:
    """Median seconds of a few gated requests, one after the other."""

    async def ask() -> float:
        async with driving(server.url) as driver:
            ends = [await driver.send(gated(server.keys["two"], seed=number)) for number in range(3)]
        assert {end.status for end in ends} == {200}
        return statistics.median(end.seconds for end in ends)

    return asyncio.run(ask())
