"""Life and death of the real process: asked to stop, hurried, killed, and robbed of its engine.

Every test has a server of its own, since none outlives its test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mirl_client import evidence
from tests.contract.conftest import asking
from tests.integration.server.test_disconnect import LONG, until
from tests.server_fixture import MIRL_SERVE, NAME, RunningServer, running

pytestmark = pytest.mark.vllm

ENGINE_DIED = 3
ROOM = ("--max-running-sequences", "4096")
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
class Told:
    """What a client was told."""

    status: int
    text: str
    at: float

    def error(self) -> dict[str, Any]:
        """The error of a whole answer, or the last one of a stream."""
        if self.status != 200:
            found: dict[str, Any] = json.loads(self.text)["error"]
            return found
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: {")]
        events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        last = [event for event in events if event.get("error") or event.get("type") == "error"][-1]
        return last.get("error") or last


def ask(server: RunningServer, which: str) -> Told:
    path, body = REQUESTS[which]
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=120)
    return Told(answer.status_code, answer.text, time.monotonic())


@contextmanager
def in_flight(server: RunningServer, *which: str) -> Iterator[dict[str, Future[Told]]]:
    """These requests, once all of them run."""
    with ThreadPoolExecutor(len(which)) as pool:
        asked = {one: pool.submit(ask, server, one) for one in which}
        wanted = 64 if any("gated" in one for one in which) else len(which)
        until(lambda: server.sequences() > wanted, 30)
        yield asked


def family(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def engines(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The engine's process, by the name that it has before it names itself or the one after."""
    found = [(child, " ".join(child.cmdline())) for child in psutil.Process(process.pid).children()]
    return [child for child, name in found if "spawn_main" in name or "EngineCore" in name]


def status(server: RunningServer, path: str) -> int | None:
    """None: nobody listens any more."""
    try:
        return httpx.get(f"{server.url}{path}", timeout=5).status_code
    except httpx.TransportError:
        return None


def show(told: Mapping[str, Told], began: float) -> None:
    for one, answer in told.items():
        print(f"{one}: {answer.status} after {answer.at - began:.1f} s: …{answer.text[-200:]!r}")


def check_honest_ends(told: Mapping[str, Told], began: float) -> None:
    """What a stop did not let finish ended at once: with a partial vote, or with an error that says why."""
    gated = [told["gated whole"], told["gated stream"]]
    partial = ['"partial":true' in answer.text.replace(" ", "") for answer in gated]
    assert any(partial), "some chains had finished"
    for answer, done in zip(gated, partial, strict=True):
        assert done or answer.error()["code"] == "draining"
        assert answer.at - began < 3
    assert told["plain whole"].status == 503
    assert "shutting down" in told["plain whole"].error()["message"]
    for one in ("plain stream", "responses stream"):
        assert told[one].status == 200
        assert "shutting down" in told[one].error()["message"]
    assert told["plain stream"].text.endswith("data: [DONE]\n\n")


def test_sigterm_lets_what_runs_finish_and_exits_0(tmp_path: Path) -> None:
    # Flags of both kinds are tried on the way.
    flags = ["--mirl-default", "descriptions=2", "--mirl-limit", "max_keep=1", "--no-reasoning-content-alias",
             "--served-model-name", "another", "--max-model-len", "512",
             "--shutdown-seconds", "120"]  # fmt: skip
    with running(tmp_path, flags) as server:
        response = server.client().chat.completions.create(model="another", messages=asking(), max_tokens=60)
        found = evidence(response)
        assert found is not None
        assert len(found.descriptions) == 2
        assert not hasattr(response.choices[0].message, "reasoning_content")
        processes = family(server)
        assert processes, "the engine runs in a process of its own"
        knobs = {"descriptions": 32, "keep": 1, "forks": 16, "gate": "none", "early_stop": False}
        body = {"model": "another", "messages": asking(), "mirl": knobs, "stream": True}
        url = f"{server.url}/v1/chat/completions"
        with httpx.Client(timeout=60) as client, client.stream("POST", url, json=body) as stream:
            lines = stream.iter_lines()
            assert '"started"' in next(lines)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            unready = until(lambda: status(server, "/ready") == 503, 1)
            assert status(server, "/health") == 200
            refused = httpx.post(url, json={"model": "another", "messages": TEXT})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) >= 1
            told = [line for line in lines if line]
        assert told[-1] == "data: [DONE]"
        assert '"partial":true' not in "".join(told)
        assert sum('"finish_reason":"' in line for line in told) >= 1
        finished = time.monotonic() - began
        assert server.process.wait(30) == 0
        ended = time.monotonic() - began
        print(
            f"not ready after {unready:.2f} s, stream finished after {finished:.1f}, ended after {ended:.1f}"
        )
        assert psutil.wait_procs(processes, timeout=2)[1] == []


@pytest.mark.full
@pytest.mark.parametrize("hurried", [False, True], ids=["in time", "hurried"])
def test_what_does_not_finish_is_ended_honestly(tmp_path: Path, hurried: bool) -> None:
    flags = [*ROOM, *([] if hurried else ["--shutdown-seconds", "1"])]
    with running(tmp_path, flags) as server:
        processes = family(server)
        with in_flight(server, *STOPPED) as asked:
            until(lambda: server.gauge("mirl_chains_finished_total") > 30, 30)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            if hurried:
                time.sleep(0.5)
                assert not any(one.done() for one in asked.values())
                server.process.send_signal(signal.SIGTERM)
            told = {one: future.result(20) for one, future in asked.items()}
        assert server.process.wait(20) == 0
        ended = time.monotonic() - began
        show(told, began)
        print(f"ended {ended:.1f} s after SIGTERM")
        check_honest_ends(told, began)
        assert ended < 9
        assert psutil.wait_procs(processes, timeout=2)[1] == []
        assert "Traceback" not in server.log.read_text()


@pytest.mark.full
def test_the_engine_is_killed_with_requests_in_flight(tmp_path: Path) -> None:
    with running(tmp_path, ROOM) as server:
        processes = family(server)
        seen: list[int | None] = []
        with in_flight(server, *REQUESTS) as asked:
            engines(server.process)[0].kill()
            began = time.monotonic()
            while not seen or seen[-1] is not None:
                seen.append(status(server, "/health"))
                if seen[-1] == 503:
                    assert status(server, "/ready") in (503, None)
                time.sleep(0.02)
            told = {one: future.result(20) for one, future in asked.items()}
        code = server.process.wait(20)
        ended = time.monotonic() - began
        show(told, began)
        health = {one: seen.count(one) for one in seen}
        print(f"ended with {code} {ended:.1f} s after the engine; /health {health}")
        assert code == ENGINE_DIED
        assert 503 in seen
        assert seen == sorted(seen, key=[200, 503, None].index), "once it fails it goes on failing"
        for one, answer in told.items():
            assert answer.status == (200 if "stream" in one else 503), (one, answer)
            assert answer.error(), one
            assert answer.at - began < 5
        assert told["gated whole"].error()["code"] == told["gated stream"].error()["code"] == "engine_dead"
        assert told["plain whole"].error()["code"] == "engine_dead"
        assert ended < 10
        assert "mirl-serve: error: the engine died" in server.log.read_text().splitlines()
        assert psutil.wait_procs(processes, timeout=2)[1] == []


@pytest.mark.full
def test_a_signal_to_the_whole_group_leaves_no_empty_answers(tmp_path: Path) -> None:
    """Ctrl-C in a terminal, and systemd unless told otherwise, signal the engine's process too."""
    with running(tmp_path, ROOM) as server:
        processes = family(server)
        with in_flight(server, "gated whole", "gated stream") as asked:
            os.killpg(server.process.pid, signal.SIGINT)
            told = {one: future.result(40) for one, future in asked.items()}
        assert server.process.wait(40) == 0
        for one, answer in told.items():
            print(f"{one}: {answer.status}: …{answer.text[-200:]!r}")
            assert '"finish_reason":"abort"' not in answer.text
            assert answer.status == 503 or '"error"' in answer.text or '"partial"' in answer.text
        assert psutil.wait_procs(processes, timeout=2)[1] == []


@pytest.mark.full
def test_the_engine_is_killed_during_start_up(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*MIRL_SERVE, "--port", "0"], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until(lambda: bool(engines(process)), 120)
        time.sleep(3)
        engines(process)[0].kill()
        assert process.wait(60) == ENGINE_DIED
        lines = log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("mirl-serve: error: ")]
        assert len(said) == 1, lines[-20:]
        assert "the engine did not start: " in said[0]
        assert not any("mirl_server/cli.py" in line for line in lines), "no traceback of ours"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.mark.full
def test_the_engine_goes_with_a_server_that_is_killed(tmp_path: Path) -> None:
    found = metadata.entry_points(group="vllm.general_plugins", name="mirl_orphans")
    assert found, "this installation is older than its pyproject.toml: install it again"
    with running(tmp_path) as server:
        engine, processes = engines(server.process)[0], family(server)
        server.process.kill()
        server.process.wait()
        engine.wait(2)
        assert psutil.wait_procs(processes, timeout=5)[1] == []
