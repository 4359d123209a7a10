"""Several API server processes before one engine: each holds to what one alone does."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.server.test_disconnect import until
from tests.integration.server.test_life import (
    ENGINE_DIED,
    REQUESTS,
    ROOM,
    STOPPED,
    check_honest_ends,
    family,
    in_flight,
    show,
    status,
)
from tests.load.raw import dial, rest
from tests.server_fixture import running

pytestmark = [pytest.mark.vllm, pytest.mark.full]

SEVERAL = (*ROOM, "--api-server-count", "2", "--shutdown-seconds", "1", "--http-limit", "header_seconds=1")


def named(processes: list[psutil.Process], what: str) -> list[psutil.Process]:
    """Of a server's processes, those that vLLM gave this name."""
    return [one for one in processes if what in " ".join(one.cmdline())]


def test_connections_have_limits_and_a_signal_ends_what_runs_honestly(tmp_path: Path) -> None:
    with running(tmp_path, SEVERAL) as server:
        processes = family(server)
        # More than one process's share: whoever listens, listens with the limits.
        silent = [dial(server) for _ in range(6)]
        began = time.monotonic()
        for one in silent:
            one.sendall(b"GET /health HTTP/1.1\r\nhost: ")
        for one in silent:
            assert rest(one).startswith(b"HTTP/1.1 408 ")
            one.close()
        assert time.monotonic() - began < 4
        with in_flight(server, *STOPPED) as asked:
            until(lambda: server.gauge("mirl_chains_finished_total") > 30, 30)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            until(lambda: status(server, "/ready") in (503, None), 2)
            told = {one: future.result(20) for one, future in asked.items()}
        assert server.process.wait(20) == 0
        ended = time.monotonic() - began
        assert ended < 12
        show(told, began)
        print(f"ended {ended:.1f} s after SIGTERM")
        check_honest_ends(told, began)
        assert psutil.wait_procs(processes, timeout=2)[1] == []
        assert "Traceback" not in server.log.read_text()


def test_the_engine_is_killed_with_requests_in_flight(tmp_path: Path) -> None:
    with running(tmp_path, SEVERAL) as server:
        processes = family(server)
        with in_flight(server, *REQUESTS) as asked:
            named(processes, "EngineCore")[0].kill()
            began = time.monotonic()
            seen = until(lambda: status(server, "/health") in (503, None), 3)
            told = {one: future.result(20) for one, future in asked.items()}
        code = server.process.wait(20)
        show(told, began)
        print(
            f"/health after {seen:.2f} s; ended with {code} {time.monotonic() - began:.1f} s after the engine"
        )
        assert code == ENGINE_DIED
        for one, answer in told.items():
            assert answer.status == (200 if "stream" in one else 503), (one, answer)
            assert answer.error(), one
            assert answer.at - began < 5
        assert psutil.wait_procs(processes, timeout=2)[1] == []


def test_an_api_server_that_dies_ends_the_others(tmp_path: Path) -> None:
    with running(tmp_path, SEVERAL) as server:
        processes = family(server)
        named(processes, "APIServer")[0].kill()
        assert server.process.wait(20) == ENGINE_DIED
        assert psutil.wait_procs(processes, timeout=2)[1] == []
