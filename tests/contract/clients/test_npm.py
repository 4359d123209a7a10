"""The openai package of npm against a real `mirl-serve`; the program is npm/ask.mjs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.image_requests import image_part
from tests.helpers.servers import NAME, RunningServer

PROGRAM = Path(__file__).parent / "npm"


@pytest.fixture(scope="module")
def results(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program saw."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("npm") / "program"
    shutil.copytree(PROGRAM, folder, ignore=shutil.ignore_patterns("node_modules"))
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    said = run(folder, "node", "ask.mjs", f"{server.url}/v1", NAME, image_part()["image_url"]["url"])
    seen: dict[str, Any] = json.loads(said)
    return seen


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_models(results: dict[str, Any]) -> None:
    assert {NAME, f"{NAME}:direct"} <= set(results["models"])
    assert results["model"] == NAME


def test_whole_and_streamed_are_one_answer(results: dict[str, Any]) -> None:
    whole, stream = results["whole"], results["stream"]
    assert whole["descriptions"] == 3
    assert (stream["content"], stream["reasoning"]) == (whole["content"], whole["reasoning"])
    assert stream["usage"] == whole["usage"]
    assert stream["events"][0] == "started"
    assert stream["events"][-1] == "finished"
    # An answer that was cut off is an error of the package's own helper.
    assert results["helper"] in ("Object", "LengthFinishReasonError")


def test_direct(results: dict[str, Any]) -> None:
    assert results["direct"] == {"model": f"{NAME}:direct", "evidence": False}


def test_tools_and_forms(results: dict[str, Any]) -> None:
    assert results["call"]["name"] == "report"
    assert isinstance(json.loads(results["call"]["arguments"])["digit"], int)
    assert isinstance(results["formed"]["digit"], int)


def test_the_responses_api(results: dict[str, Any]) -> None:
    assert results["response"]["items"] == ["reasoning", "message"]
    assert results["response"]["text"] == results["whole"]["content"]
    assert results["response"]["usage"]["output_tokens"] == results["whole"]["usage"]["completion_tokens"]
    assert results["events"][0] == "response.created"
    assert results["events"][-1] in ("response.completed", "response.incomplete")


def test_errors_are_its_own(results: dict[str, Any]) -> None:
    errors = results["errors"]
    for error in (errors["whole"], errors["streamed"]):
        assert error == {"bad": True, "missing": False, "param": "mirl.kep"}
    assert errors["model"]["missing"]


def test_the_lock_names_no_place() -> None:
    """Packages are identified by their hashes, and come from whichever registry npm is set up for."""
    lock = json.loads((PROGRAM / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)
