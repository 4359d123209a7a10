"""A client that goes away stops the engine's work for it, by vLLM's own gauges."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from tests.contract.conftest import asking
from tests.server_fixture import NAME, RunningServer

pytestmark = pytest.mark.vllm

# The largest fan-out that the server allows, so that the work lasts for seconds whatever the weights say.
LONG = {
    "model": NAME,
    "messages": asking(),
    "temperature": 2.0,
    "mirl": {"descriptions": 32, "keep": 32, "forks": 16, "gate": "none", "early_stop": False},
}


def until(true: Callable[[], bool], seconds: float) -> float:
    """Wait for `true`; seconds that it took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not come to that"
        time.sleep(0.02)
    return time.monotonic() - started


def connect(server: RunningServer, body: dict[str, object]) -> socket.socket:
    """A request sent over a bare socket, which a test can drop at any moment."""
    url = httpx.URL(server.url)
    content = json.dumps(body).encode()
    connection = socket.create_connection((url.host, url.port or 80))
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


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
