"""Requests that keep a server busy, and what their clients receive when it stops or its engine dies."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from tests.helpers.image_requests import image_question
from tests.helpers.servers import NAME, RunningServer
from tests.helpers.waiting import wait_until

# The largest fan-out that the server allows, so that the work lasts for seconds whatever the weights say.
LONG = {
    "model": NAME,
    "messages": image_question(),
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
ENGINE_DIED = 3
MANY_SEQUENCES = ("--max-running-sequences", "4096")
"""So that several of the largest requests run at a time."""
TEXT = [{"role": "user", "content": "Tell me everything."}]
ENDLESS = {"model": f"{NAME}:direct", "messages": TEXT, "max_tokens": 1500, "n": 8, "ignore_eos": True}
REQUESTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gated whole": ("/v1/chat/completions", LONG),
    "gated stream": ("/v1/chat/completions", {**LONG, "stream": True}),
    "plain whole": ("/v1/chat/completions", ENDLESS),
    "plain stream": ("/v1/chat/completions", {**ENDLESS, "stream": True}),
    "completion": ("/v1/completions", {"model": NAME, "prompt": "A", "max_tokens": 1500, "ignore_eos": True}),
    "responses stream": (
        "/v1/responses",
        {
            "model": f"{NAME}:direct", "input": "Tell", "max_output_tokens": 1500, "ignore_eos": True,
            "stream": True,
        },
    ),
}  # fmt: skip
STOPPED = ("gated whole", "gated stream", "plain whole", "plain stream", "responses stream")
"""Of these, those that a stop ends."""


@dataclass(frozen=True)
class Received:
    """The answer that a client received, and when."""

    status: int
    text: str
    at: float

    def error(self) -> dict[str, Any]:
        """The error of a whole answer, or the last one of a stream."""
        if self.status != 200:
            details: dict[str, Any] = json.loads(self.text)["error"]
            return details
        last = [event for event in self._parts() if event.get("error") or event.get("type") == "error"][-1]
        return last.get("error") or last

    def evidence(self) -> dict[str, Any] | None:
        """The `mirl` object of a gated answer that ended with a vote; None where it ended with an error."""
        objects = [part["mirl"] for part in self._parts() if "vote" in part.get("mirl", {})]
        return objects[-1] if objects else None

    def partial(self) -> bool:
        """Whether the answer is a vote over those chains that had finished."""
        evidence = self.evidence()
        return evidence is not None and evidence["partial"]

    def _parts(self) -> list[dict[str, Any]]:
        lines = self.text.splitlines() if self.text.startswith(("data:", ":", "event:")) else [self.text]
        return [
            json.loads(line.removeprefix("data: ")) for line in lines if line.startswith(("data: {", "{"))
        ]


def send(server: RunningServer, which: str) -> Received:
    """Send one of REQUESTS and wait for its answer."""
    path, body = REQUESTS[which]
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=120)
    return Received(answer.status_code, answer.text, time.monotonic())


@contextmanager
def in_flight(server: RunningServer, *which: str) -> Iterator[dict[str, Future[Received]]]:
    """Send these of REQUESTS and yield their answers to come, once all of them run."""
    with ThreadPoolExecutor(len(which)) as pool:
        sent = {name: pool.submit(send, server, name) for name in which}
        wanted = 64 if any("gated" in name for name in which) else len(which)
        wait_until(lambda: server.sequences() > wanted, 30)
        yield sent


def descendants(server: RunningServer) -> list[psutil.Process]:
    """Return all processes that the server has started, directly or not."""
    return psutil.Process(server.process.pid).children(recursive=True)


def engine_processes(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the engine's process, by the name that it has before it names itself or the one after."""
    children = [(child, " ".join(child.cmdline())) for child in psutil.Process(process.pid).children()]
    return [child for child, name in children if "spawn_main" in name or "EngineCore" in name]


def engine_starts(process: subprocess.Popen[bytes]) -> bool:
    """Return whether the engine's process has named itself, which it does before it loads the model."""
    return any("EngineCore" in " ".join(child.cmdline()) for child in engine_processes(process))


def status(server: RunningServer, path: str) -> int | None:
    """Return the status of a GET; None if nobody listens any more."""
    try:
        return httpx.get(f"{server.url}{path}", timeout=5).status_code
    except httpx.TransportError:
        return None


def print_answers(received: Mapping[str, Received], began: float) -> None:
    """Print status, time and end of each answer."""
    for name, answer in received.items():
        print(f"{name}: {answer.status} after {answer.at - began:.1f} s: …{answer.text[-200:]!r}")


def check_honest_ends(received: Mapping[str, Received], began: float) -> None:
    """What a stop did not let finish ended at once: with a partial vote, or with an error that says why."""
    gated = [received["gated whole"], received["gated stream"]]
    partial = [answer.partial() for answer in gated]
    assert any(partial), "some chains had finished"
    for answer, done in zip(gated, partial, strict=True):
        assert done or answer.error()["code"] == "draining"
        assert answer.at - began < 3
    assert received["plain whole"].status == 503
    assert "shutting down" in received["plain whole"].error()["message"]
    for name in ("plain stream", "responses stream"):
        assert received[name].status == 200
        assert "shutting down" in received[name].error()["message"]
    assert received["plain stream"].text.endswith("data: [DONE]\n\n")
