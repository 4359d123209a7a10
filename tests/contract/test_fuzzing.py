"""schemathesis against the real server: no 5xx, and no answer that `/openapi.json` does not have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.servers import RunningServer

ROOT = Path(__file__).parents[2]
OURS = (
    "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/mirl/score", "/v1/mirl/describe",
    "/v1/models", "/v1/models/{model}", "/ready",
)  # fmt: skip
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "response_headers_conformance",
)  # fmt: skip


def fuzz(server: RunningServer, folder: Path, *flags: str) -> str:
    """Output of schemathesis on MIRL's routes; fails where it reports an error."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json",
        *(word for path in OURS for word in ("--include-path", path)),
        "--checks", ",".join(CHECKS), "--generation-database", "none", "--no-color", "--no-shrink",
        "--request-timeout", "60", "--warnings", "off", *flags,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.fixtures.schemathesis_hooks",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
    assert re.search(rf"Tested: +{len(OURS)}\b", done.stdout), done.stdout
    return done.stdout


def test_a_little_fuzzing(server: RunningServer, tmp_path: Path) -> None:
    before = server.gauge("mirl_descriptions_total")
    output = fuzz(server, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "8", "--seed", "5")
    assert "Test cases" in output
    # It got past the door.
    assert server.gauge("mirl_descriptions_total") > before + 10


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_much_fuzzing(server: RunningServer, tmp_path: Path) -> None:
    fuzz(
        server, tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "300",
        "--continue-on-failure", "--seed", "7",
    )  # fmt: skip
    assert server.sequences() == 0
