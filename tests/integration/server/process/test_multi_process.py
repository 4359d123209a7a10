"""Several API server processes before one engine: each holds to what one alone does."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.servers import running
from tests.helpers.waiting import wait_until
from tests.integration.server.server_cases import (
    ENGINE_DIED,
    MANY_SEQUENCES,
    REQUESTS,
    STOPPED,
    check_honest_ends,
    descendants,
    in_flight,
    print_answers,
    status,
)
from tests.load.raw import dial, rest

pytestmark = [pytest.mark.usefixtures("real_vllm"), pytest.mark.full]

SEVERAL = (
    *MANY_SEQUENCES,
    "--api-server-count",
    "2",
    "--shutdown-seconds",
    "1",
    "--http-limit",
    "header_seconds=1",
)


def named(processes: list[psutil.Process], what: str) -> list[psutil.Process]:
    """Of a server's processes, those that vLLM gave this name."""
    return [process for process in processes if what in " ".join(process.cmdline())]


def test_connections_have_limits_and_a_signal_ends_what_runs_honestly(tmp_path: Path) -> None:
    with running(tmp_path, SEVERAL) as server:
        processes = descendants(server)
        # More than one process's share: every listening process has the limits.
        silent = [dial(server) for _ in range(6)]
        began = time.monotonic()
        for connection in silent:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: ")
        for connection in silent:
            assert rest(connection).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert time.monotonic() - began < 4
        with in_flight(server, *STOPPED) as sent:
            wait_until(lambda: server.gauge("mirl_chains_finished_total") > 30, 30)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            wait_until(lambda: status(server, "/ready") in (503, None), 2)
            received = {name: future.result(20) for name, future in sent.items()}
        assert server.process.wait(20) == 0
        ended = time.monotonic() - began
        assert ended < 12
        print_answers(received, began)
        print(f"ended {ended:.1f} s after SIGTERM")
        check_honest_ends(received, began)
        assert psutil.wait_procs(processes, timeout=2)[1] == []
        assert "Traceback" not in server.log.read_text()


def test_the_engine_is_killed_with_requests_in_flight(tmp_path: Path) -> None:
    with running(tmp_path, SEVERAL) as server:
        processes = descendants(server)
        with in_flight(server, *REQUESTS) as sent:
            named(processes, "EngineCore")[0].kill()
            began = time.monotonic()
            seen = wait_until(lambda: status(server, "/health") in (503, None), 3)
            received = {name: future.result(20) for name, future in sent.items()}
        code = server.process.wait(20)
        print_answers(received, began)
        print(
            f"/health after {seen:.2f} s; ended with {code} {time.monotonic() - began:.1f} s after the engine"
        )
        assert code == ENGINE_DIED
        for name, answer in received.items():
            assert answer.status == (200 if "stream" in name else 503), (name, answer)
            assert answer.error(), name
            assert answer.at - began < 5
        assert psutil.wait_procs(processes, timeout=2)[1] == []


def test_an_api_server_that_dies_ends_the_others(tmp_path: Path) -> None:
    with running(tmp_path, SEVERAL) as server:
        processes = descendants(server)
        named(processes, "APIServer")[0].kill()
        assert server.process.wait(20) == ENGINE_DIED
        assert psutil.wait_procs(processes, timeout=2)[1] == []
