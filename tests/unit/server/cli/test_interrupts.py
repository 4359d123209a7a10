"""Signals while the server starts, to real processes; SIGINT goes to the whole group, as from a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from mirl_server.cli import interrupts
from mirl_server.cli.interrupts import INTERRUPTED, quiet_stops

START = """
import asyncio, multiprocessing, signal, sys, time, uvloop
from mirl_server.cli.interrupts import keep_from_children, quiet_stops

def main():
    with quiet_stops():
        if "early" not in sys.argv:
            keep_from_children()
            child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
            child.start()
            print(child.pid, flush=True)
        else:
            print(0, flush=True)
        if "serve" in sys.argv:
            uvloop.run(serve(child))  # as vLLM does
        else:
            time.sleep(60)

async def serve(child):
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    print("serving", flush=True)
    await stopped.wait()
    print("alive" if child.is_alive() else "dead", flush=True)
    with open(f"/proc/{child.pid}/status") as status:
        (blocked,) = (int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
    print("SIGINT blocked" if blocked >> signal.SIGINT - 1 & 1 else "SIGINT arrives", flush=True)
    child.terminate()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def start(tmp_path: object) -> object:
    """Return a function that starts the program and returns it with its child's process id."""
    path = os.path.join(str(tmp_path), "start.py")
    with open(path, "w") as file:
        file.write(START)

    def run(*how: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, path, *how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    return run


@pytest.mark.parametrize(
    ("number", "how", "status"),
    [
        (signal.SIGINT, "early", INTERRUPTED),
        (signal.SIGTERM, "early", 0),
        (signal.SIGINT, "load", INTERRUPTED),
        (signal.SIGTERM, "load", 0),
    ],
)
def test_a_start_ends_at_once_with_its_children_and_without_a_word(
    start: object, number: int, how: str, status: int
) -> None:
    process, child = start(how)  # type: ignore[operator]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (status, "", "")
    assert not child or not psutil.pid_exists(child)


def test_once_it_serves_the_servers_own_handler_is_called_and_the_engine_lives(start: object) -> None:
    process, _ = start("serve")  # type: ignore[operator]
    assert process.stdout.readline() == "serving\n"
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (0, "alive\nSIGINT blocked\n", "")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with quiet_stops():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before[0]
    # Another's handler stays.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, before[1])


def test_the_start_stays_quiet_until_the_children_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that still loads would otherwise show the warnings that a start holds back."""
    events: list[str] = []

    class Child:
        def terminate(self) -> None:
            events.append("terminate")

        def join(self, seconds: float) -> None:
            events.append("join")

        def kill(self) -> None:
            events.append("kill")

    monkeypatch.setattr(interrupts.multiprocessing, "active_children", lambda: [Child()])
    monkeypatch.setattr(interrupts.quiet_start, "end", lambda: events.append("end of the start"))
    monkeypatch.setattr(interrupts.os, "_exit", lambda status: events.append(f"exit {status}"))
    interrupts._stop(signal.SIGINT)
    assert events == ["terminate", "join", "kill", "end of the start", f"exit {INTERRUPTED}"]
