"""What README and docs/serving.md show works as it stands there: only the port is another."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.servers import MIRL_SERVE, RunningServer, running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Yield the server that README starts: no model is named, so it serves the bundled charts model."""
    with running(tmp_path_factory.mktemp("readme"), command=MIRL_SERVE) as started:
        yield started


def block(language: str, containing: str, file: str = "README.md") -> str:
    """The code block in `language` of a document that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    (found,) = [code for code in blocks if containing in code]
    return found


def shell(server: RunningServer, code: str) -> str:
    """What a shell block prints."""
    code = code.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(server: RunningServer) -> None:
    answer = json.loads(shell(server, block("sh", "curl")))
    assert answer["choices"][0]["message"]["content"]
    assert len(answer["mirl"]["descriptions"]) == 10


def test_curl_of_a_stream(server: RunningServer) -> None:
    lines = shell(server, block("sh", "curl -sN", "docs/serving.md")).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line.startswith("data: ")]
    assert next(chunk["mirl"]["event"] for chunk in chunks if "mirl" in chunk) == "started"
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_curl_of_an_error(server: RunningServer) -> None:
    error = json.loads(shell(server, block("sh", "kep", "docs/serving.md")))["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_python(server: RunningServer) -> None:
    code = block("python", "OpenAI").replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mi_per_token" in done.stdout
