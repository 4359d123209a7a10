"""What README shows works as it stands there: only the port is another."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_fixture import RunningServer

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]


def block(language: str, containing: str) -> str:
    """The README's code block in `language` that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (found,) = [code for code in blocks if containing in code]
    return found


def test_curl(server: RunningServer) -> None:
    code = block("sh", "curl").replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"]
    assert len(answer["mirl"]["descriptions"]) == 10


def test_python(server: RunningServer) -> None:
    code = block("python", "OpenAI").replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mi_per_token" in done.stdout
