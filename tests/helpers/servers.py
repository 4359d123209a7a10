"""Servers in other processes, mostly `mirl-serve` on the digits model, and what tests read from them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

from mirl_core.bundled import DIGITS
from tests.helpers.ports import listening_port

START_SECONDS = 240
MIRL_SERVE = (sys.executable, "-m", "mirl_server.cli.main")
NAME = "mirl-tiny"
SERVE_DIGITS = (*MIRL_SERVE, "--model", NAME)
VLLM_SERVE = (
    *(sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(DIGITS.path)),
    *("--served-model-name", NAME, "--enforce-eager", "--kv-cache-memory-bytes", "1G"),
)
"""vLLM's own server on the digits model, as its users start it; `VLLM_PLUGINS` says whether MIRL is in it."""


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
    command: Sequence[str] = SERVE_DIGITS,
    environment: Mapping[str, str] | None = None,
    ready: str = "/ready",
    port: int = 0,
    clean: bool = False,
) -> Iterator[RunningServer]:
    """Start a server and yield it once `ready` answers 200; it and all that it started are gone afterwards.

    Args:
        folder: where its log is written.
        port: 0: one that the kernel gives the server, which is read back from there.
        clean: `environment` is all that the server has.

    Raises:
        RuntimeError: the server ends or takes more than START_SECONDS.
    """
    log = folder / "server.log"
    with log.open("wb") as out:
        # A session of its own: its process group is exactly what was started here.
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**({} if clean else os.environ), **(environment or {})},
        )
    try:
        started = time.monotonic()
        while True:
            bound = port or listening_port(process.pid)
            url = f"http://127.0.0.1:{bound}"
            if bound is not None and _answers(f"{url}{ready}"):
                break
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
class GatewayServer(RunningServer):
    """A gateway before one server with an engine."""

    engine: RunningServer

    def gauge(self, name: str) -> float:
        """The sum of a metric's samples, of the engine where it is vLLM's."""
        return self.engine.gauge(name) if name.startswith("vllm:") else super().gauge(name)


@contextlib.contextmanager
def running_gateway(
    folder: Path, engine: RunningServer, flags: Sequence[str] = (), **how: Any
) -> Iterator[GatewayServer]:
    """Start a gateway before an engine's server, and yield it once it is ready."""
    command = (*MIRL_SERVE, "--engine-url", engine.url)
    with running(folder, flags, command, **how) as started:
        yield GatewayServer(started.url, started.process, started.log, started.clients, engine)


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
