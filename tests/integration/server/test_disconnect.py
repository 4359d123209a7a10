"""A client that goes away stops the engine's work for it, by vLLM's own gauges."""

from __future__ import annotations

from contextlib import ExitStack

import httpx
import pytest
from openai.types.chat import ChatCompletion

from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME, RunningServer
from tests.helpers.waiting import wait_until
from tests.integration.server.server_cases import LONG, PLAIN
from tests.load.raw import connect, drop


def answered(server: RunningServer) -> ChatCompletion:
    """Return a gated answer. Serial requests with a seed repeat exactly, if nothing ends chains early."""
    return server.client().chat.completions.create(
        model=NAME, messages=image_question(), max_tokens=60, seed=1,
        extra_body=small_fan_out(early_stop=False),
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def before(server: RunningServer) -> ChatCompletion:
    """Return the answer that the server gives before anybody leaves."""
    return answered(server)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_disconnect_frees_the_engine(server: RunningServer, stream: bool) -> None:
    wait_until(lambda: server.sequences() == 0, 20)
    cancelled = server.gauge('mirl_requests_total{outcome="cancelled"}')
    with connect(server, {**LONG, "stream": stream}):
        # More than there are descriptions: hundreds of forks run, and no pause between stages is left.
        wait_until(lambda: server.sequences() > 64, 20)
    freed = wait_until(lambda: server.sequences() == 0, 5)
    print(f"engine idle {freed:.2f} s after the disconnect ({'stream' if stream else 'whole'})")
    assert freed < 2
    wait_until(lambda: server.gauge('mirl_requests_total{outcome="cancelled"}') == cancelled + 1, 5)
    assert server.gauge("mirl_requests_in_flight") == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_several_that_leave_at_once(server: RunningServer, how: str) -> None:
    """Gated and plain, whole and streaming, together; connections that are reset, too."""
    wait_until(lambda: server.sequences() == 0, 20)
    with ExitStack() as stack:
        gone = [
            stack.enter_context(connect(server, {**body, "stream": stream}))
            for body in (LONG, PLAIN)
            for stream in (False, True)
        ]
        wait_until(lambda: server.sequences() > 128, 20)
        for connection in gone:
            drop(connection, how)
    freed = wait_until(lambda: server.sequences() == 0, 5)
    print(f"engine idle {freed:.2f} s after four were dropped ({how})")
    assert freed < 2
    wait_until(lambda: server.gauge("mirl_admitted_sequences") == 0, 2)


def test_a_half_read_stream_that_is_dropped_frees_the_engine(server: RunningServer) -> None:
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True}) as response,
    ):
        lines = response.iter_lines()  # held: httpx closes the response when its iterator is collected
        assert '"started"' in next(lines)
        wait_until(lambda: server.sequences() >= 4, 20)
    assert wait_until(lambda: server.sequences() == 0, 5) < 2


def test_a_good_request_is_answered_as_before(server: RunningServer, before: ChatCompletion) -> None:
    after = answered(server)
    assert after.choices == before.choices
    assert after.usage == before.usage
