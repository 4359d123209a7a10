"""`mirl-serve` on a free port, always stopped: for the demo, and for `mirl ask --serve`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

START_SECONDS = 180


@contextmanager
def serving(console: Console) -> Iterator[str]:
    """Run `mirl-serve` on a free port; yield its base URL.

    Raises:
        SystemExit: the server ended, or is not ready within `START_SECONDS`; its log is on stderr.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "mirl_server.cli.main", "--port", str(port)]
        # In a new session, so that the engine's processes end with it.
        server = subprocess.Popen(  # noqa: S603 - a fixed command
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with console.status("Starting mirl-serve on the bundled model (real vLLM, CPU) …"):
                started = time.monotonic()
                while not is_ready(f"{url}/ready"):
                    ended = server.poll() is not None
                    if ended or time.monotonic() - started > START_SECONDS:
                        log.seek(0)
                        sys.stderr.write(log.read().decode(errors="replace")[-8000:])
                        why = "ended" if ended else f"is not ready after {START_SECONDS} s"
                        raise SystemExit(f"mirl-serve {why}; its log is above")
                    time.sleep(0.3)
            console.print(f"mirl-serve is ready after {time.monotonic() - started:.0f} s at {url}")
            yield url
        finally:
            stop(server)


def is_ready(url: str) -> bool:
    """Return whether a GET of the URL is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - this machine's own server
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all processes that it started."""
    server.send_signal(signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
