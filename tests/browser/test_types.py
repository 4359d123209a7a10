"""The page's modules under TypeScript's checker, by the types in their comments."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.full
PACKAGES = Path(__file__).parent / "npm"
PROJECT = Path(__file__).parents[2] / "clients" / "playground" / "jsconfig.json"


@pytest.fixture(scope="module")
def tsc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return TypeScript's compiler."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("typescript") / "npm"
    shutil.copytree(PACKAGES, folder)
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "node_modules" / ".bin" / "tsc"


def check(tsc: Path, project: Path) -> tuple[int, str]:
    done = subprocess.run([tsc, "-p", project], capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_types_hold(tsc: Path) -> None:
    assert check(tsc, PROJECT) == (0, "")


def test_a_wrong_type_would_be_detected(tsc: Path, tmp_path: Path) -> None:
    copy = tmp_path / "playground"
    shutil.copytree(PROJECT.parent, copy)
    words = copy / "lib" / "words.js"
    words.write_text(words.read_text() + '\nwhole("seven");\n')
    code, said = check(tsc, copy / PROJECT.name)
    assert code != 0
    assert "words.js" in said


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((PACKAGES / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)
