"""Life and death of the real process: stopped, stopped twice, killed, and left without its engine.

Every test has a server of its own, since none outlives its test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import httpx
import psutil
import pytest

from mirl_client import evidence
from tests.helpers.image_requests import image_question
from tests.helpers.servers import MIRL_SERVE, running
from tests.helpers.waiting import wait_until
from tests.integration.server.server_cases import (
    ENGINE_DIED,
    MANY_SEQUENCES,
    REQUESTS,
    STOPPED,
    TEXT,
    check_honest_ends,
    descendants,
    engine_processes,
    engine_starts,
    in_flight,
    print_answers,
    status,
)

pytestmark = pytest.mark.usefixtures("real_vllm")


@pytest.mark.full
def test_sigterm_lets_what_runs_finish_and_exits_0(tmp_path: Path) -> None:
    # Flags of both kinds are tried on the way.
    flags = ["--mirl-default", "descriptions=2", "--mirl-limit", "max_keep=1", "--no-reasoning-content-alias",
             "--served-model-name", "another", "--max-model-len", "512",
             "--shutdown-seconds", "120"]  # fmt: skip
    with running(tmp_path, flags) as server:
        response = server.client().chat.completions.create(
            model="another", messages=image_question(), max_tokens=60
        )
        details = evidence(response)
        assert details is not None
        assert len(details.descriptions) == 2
        assert not hasattr(response.choices[0].message, "reasoning_content")
        processes = descendants(server)
        assert processes, "the engine runs in a process of its own"
        knobs = {"descriptions": 32, "keep": 1, "forks": 16, "gate": "none", "early_stop": False}
        body = {"model": "another", "messages": image_question(), "mirl": knobs, "stream": True}
        url = f"{server.url}/v1/chat/completions"
        with httpx.Client(timeout=60) as client, client.stream("POST", url, json=body) as stream:
            lines = stream.iter_lines()
            assert '"started"' in next(lines)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            unready = wait_until(lambda: status(server, "/ready") == 503, 1)
            assert status(server, "/health") == 200
            refused = httpx.post(url, json={"model": "another", "messages": TEXT})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) >= 1
            received = [line for line in lines if line]
        assert received[-1] == "data: [DONE]"
        assert '"partial":true' not in "".join(received)
        assert sum('"finish_reason":"' in line for line in received) >= 1
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
    flags = [*MANY_SEQUENCES, *([] if hurried else ["--shutdown-seconds", "1"])]
    with running(tmp_path, flags) as server:
        processes = descendants(server)
        with in_flight(server, *STOPPED) as sent:
            wait_until(lambda: server.gauge("mirl_chains_finished_total") > 30, 30)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            if hurried:
                # The first signal has arrived, and does not end anything yet.
                wait_until(lambda: status(server, "/ready") == 503, 20)
                assert not any(future.done() for future in sent.values())
                server.process.send_signal(signal.SIGTERM)
            received = {name: future.result(20) for name, future in sent.items()}
        assert server.process.wait(20) == 0
        ended = time.monotonic() - began
        print_answers(received, began)
        print(f"ended {ended:.1f} s after SIGTERM")
        check_honest_ends(received, began)
        assert ended < 9
        assert psutil.wait_procs(processes, timeout=2)[1] == []
        assert "Traceback" not in server.log.read_text()


@pytest.mark.full
def test_the_engine_is_killed_with_requests_in_flight(tmp_path: Path) -> None:
    with running(tmp_path, MANY_SEQUENCES) as server:
        processes = descendants(server)
        seen: list[int | None] = []
        with in_flight(server, *REQUESTS) as sent:
            engine_processes(server.process)[0].kill()
            began = time.monotonic()
            while not seen or seen[-1] is not None:
                seen.append(status(server, "/health"))
                if seen[-1] == 503:
                    assert status(server, "/ready") in (503, None)
                time.sleep(0.02)
            received = {name: future.result(20) for name, future in sent.items()}
        code = server.process.wait(20)
        ended = time.monotonic() - began
        print_answers(received, began)
        health = {state: seen.count(state) for state in seen}
        print(f"ended with {code} {ended:.1f} s after the engine; /health {health}")
        assert code == ENGINE_DIED
        assert 503 in seen
        assert seen == sorted(seen, key=[200, 503, None].index), "once it fails it goes on failing"
        for name, answer in received.items():
            assert answer.status == (200 if "stream" in name else 503), (name, answer)
            assert answer.error(), name
            assert answer.at - began < 5
        assert (
            received["gated whole"].error()["code"]
            == received["gated stream"].error()["code"]
            == "engine_dead"
        )
        assert received["plain whole"].error()["code"] == "engine_dead"
        assert ended < 10
        assert "mirl-serve: error: the engine died" in server.log.read_text().splitlines()
        assert psutil.wait_procs(processes, timeout=2)[1] == []


@pytest.mark.full
def test_a_signal_to_the_whole_group_leaves_no_empty_answers(tmp_path: Path) -> None:
    """Ctrl-C in a terminal, and systemd by default, signal the engine's process too."""
    with running(tmp_path, MANY_SEQUENCES) as server:
        processes = descendants(server)
        with in_flight(server, "gated whole", "gated stream") as sent:
            os.killpg(server.process.pid, signal.SIGINT)
            received = {name: future.result(40) for name, future in sent.items()}
        assert server.process.wait(40) == 0
        for name, answer in received.items():
            print(f"{name}: {answer.status}: …{answer.text[-200:]!r}")
            evidence = answer.evidence()
            if evidence is None:
                assert answer.error()["code"] in ("draining", "engine_dead")
                continue
            # On a busy machine the chains outlast the server's patience: that vote is partial, and says so.
            cut = [chain for chain in evidence["chains"] if chain["finish_reason"] == "abort"]
            assert evidence["partial"] == bool(cut)
            assert evidence["vote"] is not None
        assert psutil.wait_procs(processes, timeout=2)[1] == []


@pytest.mark.full
def test_the_engine_is_killed_during_start_up(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*MIRL_SERVE, "--port", "0"], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: engine_starts(process), 120)
        engine_processes(process)[0].kill()
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
    plugins = metadata.entry_points(group="vllm.general_plugins", name="mirl_orphans")
    assert plugins, "this installation is older than its pyproject.toml: install it again"
    with running(tmp_path) as server:
        engine, processes = engine_processes(server.process)[0], descendants(server)
        server.process.kill()
        server.process.wait()
        engine.wait(2)
        assert psutil.wait_procs(processes, timeout=5)[1] == []
