"""The systemd unit, as systemd's own tools judge it, and the settings that it starts with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import ROOT, output_of, tool

SYSTEMD = ROOT / "deploy" / "systemd"
UNIT = SYSTEMD / "mirl.service"
MOST_EXPOSED = 2.0
"""What `systemd-analyze security` calls OK; 10 is a service without any limit."""


def installed(folder: Path) -> Path:
    """Return the unit with a command that exists on this machine."""
    file = folder / "mirl.service"
    file.write_text(UNIT.read_text().replace("/opt/mirl/bin/mirl-serve", sys.executable))
    return file


def test_systemd_takes_the_unit_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", installed(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "mirl.service" not in done.stderr


def test_the_service_is_exposed_to_little(tmp_path: Path) -> None:
    output = output_of(
        tool("systemd-analyze"), "security", "--offline=true", "--no-pager", installed(tmp_path)
    )
    match = re.search(r"Overall exposure level for mirl.service: ([\d.]+)", output)
    assert match, output
    print(f"systemd-analyze security: {match[1]}")
    assert float(match[1]) <= MOST_EXPOSED


def test_the_unit_stops_as_the_documents_say() -> None:
    lines = UNIT.read_text().splitlines()
    for line in ("KillMode=mixed", "Restart=on-failure", "RestartPreventExitStatus=2", "TimeoutStopSec=35"):
        assert line in lines
        assert line.split("=")[0] in (ROOT / "docs" / "serving.md").read_text()


def test_mirl_serve_takes_the_settings_of_the_service(tmp_path: Path) -> None:
    output = output_of(
        sys.executable, "-m", "mirl_server.cli.main", "--config", SYSTEMD / "config.yaml", "--dry-run"
    )
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in output
