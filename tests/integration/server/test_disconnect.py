"""A client that goes away stops the engine's work for it, by vLLM's own gauges."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.contract.conftest import asking
from tests.load.raw import connect, drop
from tests.server_fixture import NAME, RunningServer

pytestmark = pytest.mark.vllm

# The largest fan-out that the server allows, so that the work lasts for seconds whatever the weights say.
LONG = {
    "model": NAME,
    "messages": asking(),
    "temperature": 2.0,
    "mirl": {"descriptions": 32, "keep": 32, "forks": 16, "gate": "none", "early_stop": False},
}
PLAIN: dict[str, Any] = {
    "model": NAME,
    "messages": [{"role": "user", "content": "hello"}],
    "n": 32,
    "max_tokens": 900,
    "ignore_eos": True,
}


def until(true: Callable[[], bool], seconds: float) -> float:
    """Wait for `true`; seconds that it took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not come to that"
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_disconnect_frees_the_engine(server: RunningServer, stream: bool) -> None:
    until(lambda: server.sequences() == 0, 20)
    cancelled = server.gauge('mirl_requests_total{outcome="cancelled"}')
    with connect(server, {**LONG, "stream": stream}):
        # More than there are descriptions: hundreds of forks run, and no pause between stages is left.
        until(lambda: server.sequences() > 64, 20)
    freed = until(lambda: server.sequences() == 0, 5)
    print(f"engine idle {freed:.2f} s after the disconnect ({'stream' if stream else 'whole'})")
    assert freed < 2
    until(lambda: server.gauge('mirl_requests_total{outcome="cancelled"}') == cancelled + 1, 5)
    assert server.gauge("mirl_requests_in_flight") == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_several_that_leave_at_once(server: RunningServer, how: str) -> None:
    """Gated and plain, whole and streaming, together; connections that are reset, too."""
    until(lambda: server.sequences() == 0, 20)
    with ExitStack() as open_ones:
        gone = [
            open_ones.enter_context(connect(server, {**body, "stream": stream}))
            for body in (LONG, PLAIN)
            for stream in (False, True)
        ]
        until(lambda: server.sequences() > 128, 20)
        for one in gone:
            drop(one, how)
    freed = until(lambda: server.sequences() == 0, 5)
    print(f"engine idle {freed:.2f} s after four were dropped ({how})")
    assert freed < 2
    until(lambda: server.gauge("mirl_admitted_sequences") == 0, 2)


def test_a_half_read_stream_that_is_dropped_frees_the_engine(server: RunningServer) -> None:
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True}) as response,
    ):
        lines = response.iter_lines()  # held: httpx closes the response when its iterator is collected
        assert '"started"' in next(lines)
        until(lambda: server.sequences() >= 4, 20)
    assert until(lambda: server.sequences() == 0, 5) < 2


def test_a_good_request_is_answered_after_them(server: RunningServer) -> None:
    response = server.client().chat.completions.create(model=NAME, messages=asking(), max_tokens=60)
    assert response.choices
