"""A real `mirl-serve` on the bundled model, for tests that talk to it over HTTP. One serves the session."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

START_SECONDS = 240
MIRL_SERVE = (sys.executable, "-m", "mirl_server.cli.main")
NAME = "mirl-tiny"


@dataclass(frozen=True)
class RunningServer:
    """A server process that this test session started."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    clients: contextlib.ExitStack
    """What is closed with the server. A client that is left to the garbage collector, in the traceback of the
    error that a test expected, say, warns of its open connection in whichever test comes then."""

    def client(self, **how: Any) -> OpenAI:
        made = OpenAI(
            base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 120, **how}
        )
        return self.clients.enter_context(made)

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=240)

    def gauge(self, name: str) -> float:
        """The sum of a metric's samples on /metrics."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def sequences(self) -> float:
        """Sequences that the engine runs or has waiting, by vLLM's own gauges."""
        return self.gauge("vllm:num_requests_running") + self.gauge("vllm:num_requests_waiting")


@contextlib.contextmanager
def running(
    folder: Path,
    flags: Sequence[str] = (),
    command: Sequence[str] = MIRL_SERVE,
    environment: Mapping[str, str] | None = None,
    ready: str = "/ready",
) -> Iterator[RunningServer]:
    """A server on a free port, ready once `ready` answers 200; it and all it started are gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    with log.open("wb") as out:
        # A session of its own: its process group is exactly what was started here.
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    try:
        started = time.monotonic()
        while not _answers(f"{url}{ready}"):
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-6000:]}")
            time.sleep(0.2)
        with contextlib.ExitStack() as clients:
            yield RunningServer(url, process, log, clients)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass(frozen=True)
class GuardedServer(RunningServer):
    """A server that wants keys, takes little at a time, and has short limits on connections."""

    keys: Mapping[str, str]
    """Keys by name. `heavy` has twice the weight of the others; `theirs` is of vLLM's own `--api-key`."""
    key_file: Path


def key_lines(keys: Mapping[str, str]) -> str:
    """A key file."""
    lines = (
        f"{name}: {{key: {key}, weight: 2}}" if name == "heavy" else f"{name}: {key}"
        for name, key in keys.items()
        if name != "theirs"
    )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    """A server with keys, small limits and a look inside; shared, so leave nothing running in it."""
    folder = tmp_path_factory.mktemp("guarded")
    names = ("ours", "one", "two", "three", "heavy", "text")
    keys = {name: f"0123456789abcdef-{name}" for name in names} | {"theirs": "theirs"}
    file = folder / "keys.yaml"
    file.write_text(key_lines(keys))
    flags = [
        "--api-key-file", str(file), "--api-key", keys["theirs"], "--open-path", "/metrics",
        "--http-limit", "max_body_bytes=2000000", "--http-limit", "header_seconds=2",
        "--http-limit", "write_seconds=2", "--max-queue", "16", "--max-running-sequences", "96",
        "--enable-prompt-tokens-details", "--middleware", "tests.load.inside.Counting",
        # Small, so that all of it is touched soon: memory that grows later has another reason.
        "--kv-cache-memory-bytes", "128M",
    ]  # fmt: skip
    with running(folder, flags) as started:
        yield GuardedServer(started.url, started.process, started.log, started.clients, keys, file)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`mirl-serve` as it comes, on the bundled model; shared, so leave nothing running in it."""
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started
