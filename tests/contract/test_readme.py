"""Commands of README and docs/serving.md work as they stand, in a newcomer's shell, on another port."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mirl_server.apis.pages.routes import add_pages
from tests.helpers.documented_commands import NewcomersShell, blocks, commands, way
from tests.helpers.servers import RunningServer, running


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> NewcomersShell:
    return NewcomersShell(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def server(
    real_vllm: None, shell: NewcomersShell, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Yield the server that `make serve` starts: no model is named, so it serves the bundled charts model."""
    started = f'cd {shlex.quote(str(shell.folder))} && exec .venv/bin/mirl-serve "$@"'
    folder = tmp_path_factory.mktemp("readme")
    with running(folder, (), ("bash", "-c", started, "bash"), shell.environment, clean=True) as server:
        yield server


def block(language: str, containing: str, file: str = "README.md") -> str:
    """The code block in `language` of a document that contains a text."""
    (code,) = [
        entry.code for entry in blocks(file) if entry.language == language and containing in entry.code
    ]
    return code


def run(shell: NewcomersShell, server: RunningServer, code: str) -> str:
    """What a shell block prints."""
    done = shell.run(code.replace("http://127.0.0.1:8000", server.url))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_for_a_server_is_run_below() -> None:
    run_below = [block("sh", "curl"), block("sh", "mirl ask")]
    run_below += [block("sh", text, "docs/serving.md") for text in ("curl -sN", "kep", "mirl ask")]
    for command in commands():
        assert way(command) != "server" or any(command in code for code in run_below), command


@pytest.mark.parametrize(
    ("document", "parts"),
    [
        ("README.md", ("tokens", "limes 7, berries 7, apples 17")),
        ("docs/serving.md", ("tokens", "greedy", "16 votes", "6 limes, 18 apples", "a dog")),
    ],
)
def test_the_command_of_the_client(
    shell: NewcomersShell, server: RunningServer, document: str, parts: tuple[str, ...]
) -> None:
    done = shell.run(block("sh", "mirl ask", document), MIRL_BASE_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert [part for part in parts if part not in done.stdout] == []


def test_curl(shell: NewcomersShell, server: RunningServer) -> None:
    answer, again = (json.loads(run(shell, server, block("sh", "curl"))) for _ in range(2))
    content = answer["choices"][0]["message"]["content"]
    assert content
    assert len(answer["mirl"]["descriptions"]) == 12
    # The seed makes it repeat, as README says.
    assert again["choices"][0]["message"]["content"] == content


def test_curl_of_a_stream(shell: NewcomersShell, server: RunningServer) -> None:
    lines = run(shell, server, block("sh", "curl -sN", "docs/serving.md")).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line.startswith("data: ")]
    assert next(chunk["mirl"]["event"] for chunk in chunks if "mirl" in chunk) == "started"
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_curl_of_an_error(shell: NewcomersShell, server: RunningServer) -> None:
    error = json.loads(run(shell, server, block("sh", "kep", "docs/serving.md")))["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_python(shell: NewcomersShell, server: RunningServer) -> None:
    code = block("python", "OpenAI")
    printed = run(shell, server, f".venv/bin/python -c {shlex.quote(code)}")
    assert "mi_per_token" in printed
    confidence = float(printed.splitlines()[-1])
    assert 0 < confidence <= 1


def test_the_start_page_has_a_request_that_works(
    shell: NewcomersShell, server: RunningServer, tmp_path: Path
) -> None:
    app = FastAPI()
    add_pages(app, lambda: "mirl-charts", tmp_path)
    page = TestClient(app, base_url=server.url).get("/").text
    request = page.partition("<pre>")[2].partition("</pre>")[0]
    picture = "mirl_core/bundled/charts/questions/1-charts-iid.png"
    answer = json.loads(run(shell, server, request.replace("picture.png", picture)))
    assert answer["mirl"]["descriptions"]


@pytest.mark.full
def test_the_commands_that_install(shell: NewcomersShell, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The environment is made for real; pip stops before it installs, since the GPU's vLLM is for a GPU."""
    folder = tmp_path_factory.mktemp("install")
    for command in commands():
        if way(command) == "venv":
            done = shell.run(command.replace(".venv", str(folder / "venv")))
            assert done.returncode == 0, done.stderr
            assert (folder / "venv" / "bin" / "pip").exists()
        elif way(command) == "pip":
            how = "install --dry-run --no-deps --no-build-isolation"
            done = shell.run(command.replace("install", how, 1))
            assert done.returncode == 0, done.stderr
            packages = done.stdout.rpartition("Would install ")[2].split()
            assert {package.rpartition("-")[0] for package in packages} == {"mirl", "mirl-client"}
