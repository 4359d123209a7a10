"""Engines behind a gateway are replaced and scaled down under load, as by Kubernetes: no request is lost.

On the level of processes: SIGTERM to one engine at a time, its end awaited, a new one in its place.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.ports import reserved_port
from tests.helpers.servers import MIRL_SERVE, NAME, RunningServer, running
from tests.helpers.waiting import wait_until

CLIENTS = 3


@contextmanager
def asking(gateway: RunningServer) -> Iterator[Counter[str]]:
    """Have CLIENTS ask gated questions, streamed and not, one after the other; yield the counted outcomes."""
    outcomes: Counter[str] = Counter()
    numbers = itertools.count()
    ended = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=gateway.url, timeout=120) as http:
            while not ended.is_set():
                number = next(numbers)
                streamed = number % 2 == 1
                body = {"model": NAME, "messages": image_question(seed=number % 5), "stream": streamed}
                answer = http.post("/v1/chat/completions", json=body | small_fan_out())
                whole = not streamed or answer.text.endswith("data: [DONE]\n\n")
                lost = not whole or '"error"' in answer.text or '"partial":true' in answer.text
                outcomes["lost" if lost else str(answer.status_code)] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            yield outcomes
        finally:
            ended.set()
        for each in clients:
            each.result()


def stop(engine: RunningServer) -> float:
    """Stop an engine as Kubernetes does; return the seconds that it took."""
    began = time.monotonic()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(90) == 0
    return time.monotonic() - began


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("real_vllm")
def test_an_update_and_a_scale_down_lose_no_request(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(2)]

        def start(name: str, port: int) -> RunningServer:
            folder = tmp_path / name
            folder.mkdir()
            return stack.enter_context(running(folder, ["--enable-scale-out"], port=port))

        engines = [start(f"engine {port}", port) for port in ports]
        urls = [flag for port in ports for flag in ("--engine-url", f"http://127.0.0.1:{port}")]
        gateway = stack.enter_context(running(tmp_path, command=(*MIRL_SERVE, *urls)))

        def ready() -> int:
            states = httpx.get(f"{gateway.url}/ready", timeout=30).json()["engines"]
            return sum(state["ready"] for state in states)

        with asking(gateway) as outcomes:

            def more() -> None:
                before = outcomes.total()
                wait_until(lambda: outcomes.total() > before + 10, 120)

            more()
            seconds = []
            for number, port in enumerate(ports):
                seconds.append(stop(engines[number]))
                engines[number] = start(f"new engine {port}", port)
                wait_until(lambda: ready() == 2, 60)
                more()
            seconds.append(stop(engines[0]))
            more()
        print(f"{outcomes}; engines ended after {', '.join(f'{each:.1f}' for each in seconds)} s")
        assert outcomes == {"200": outcomes.total()}
