"""Clients that cannot be beside vLLM, from an environment of their own (`make test-full` makes it)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.image_requests import image_part
from tests.helpers.servers import RunningServer

pytestmark = pytest.mark.full

CASES = Path(__file__).parent / "apart"
PYTHON = Path(sys.prefix) / "clients" / "bin" / "python"


@pytest.mark.parametrize("client", ["litellm", "instructor"])
def test_its_cases(server: RunningServer, client: str, tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("requirements/clients.lock is not installed; `make test-full` does it")
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "MIRL_TEST_URL": f"{server.url}/v1",
        "MIRL_TEST_IMAGE": image_part()["image_url"]["url"],
        # Its table of prices is else fetched when it is imported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "--tb=short", "-c", settings, "--rootdir", CASES,
         "--confcutdir", CASES, "-p", "no:cacheprovider", "--import-mode=importlib",
         CASES / f"{client}_cases.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-15_000:] + done.stderr[-3_000:]
