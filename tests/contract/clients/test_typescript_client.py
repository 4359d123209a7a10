"""The TypeScript client: types in step with the server, and its tests against a real `mirl-serve`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mirl_core.bundled import DIGITS
from tests.helpers.servers import RunningServer

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

CLIENT = Path(__file__).parents[3] / "clients" / "typescript"
GENERATED = ("node_modules", "dist", "build")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the client's folder with its packages installed and its sources compiled."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns(*GENERATED))
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    run(folder, "npm", "run", "check")
    return folder


def run(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-15_000:]
    return done.stdout


def test_its_types_are_those_of_the_servers_document(checkout: Path) -> None:
    run(checkout, "node", "scripts/generate.mjs", "generated.ts", PYTHON=sys.executable)
    generated, committed = checkout / "generated.ts", CLIENT / "src" / "openapi.ts"
    assert generated.read_text() == committed.read_text(), "run `npm run generate` in clients/typescript"


def test_its_tests_on_the_real_server(checkout: Path, server: RunningServer) -> None:
    picture = DIGITS.questions()[0].file
    out = run(checkout, "npm", "test", MIRL_TEST_URL=server.url, MIRL_TEST_PICTURE=str(picture))
    assert "\n# fail 0\n" in out
    assert "\n# skipped 0\n" in out


def test_what_it_publishes(checkout: Path) -> None:
    (package,) = json.loads(run(checkout, "npm", "pack", "--dry-run", "--json", "--ignore-scripts"))
    names = {entry["path"] for entry in package["files"]}
    assert {"LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts"} <= names
    assert all(name.startswith("dist/") for name in names - {"LICENSE", "README.md", "package.json"})
    # Browsers have no modules of Node.
    for name in names:
        if name.endswith(".js"):
            code = (checkout / name).read_text()
            assert not [line for line in code.splitlines() if "import" in line and "node:" in line]


def test_its_lock_has_hashes_and_no_hosts() -> None:
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert not [package for package in packages if "resolved" in package or "integrity" not in package]
    own = lock["packages"][""]
    assert own["dependencies"].keys() == {"openai"}
