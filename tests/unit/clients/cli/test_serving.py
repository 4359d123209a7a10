"""A server that ends while it starts, and a server that takes too long, are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from mirl_client.cli import serving


@pytest.mark.parametrize(
    ("script", "log", "reason"),
    [
        ("echo port taken; exit 2", "port taken\n", "mirl-serve ended; its log is above"),
        ("echo loading; exec sleep 60", "loading\n", "mirl-serve is not ready after 1 s; its log is above"),
    ],
)
def test_why_there_is_no_server(
    script: str,
    log: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = tmp_path / "python"
    server.write_text(f"#!/bin/sh\n{script}\n")
    server.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(server))
    monkeypatch.setattr(serving, "START_SECONDS", 1)
    with pytest.raises(SystemExit, match=reason), serving.serving(Console(quiet=True)):
        pytest.fail("nothing serves")
    assert capsys.readouterr().err == log
