"""What `pip install .` without extras gives: the core and the client, without torch or vllm."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IMPORTS = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "vllm", "transformers", "fastapi", "sklearn", "easy_vqa"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
modules = ("mirl_core", "mirl_core.pipeline.run", "mirl_core.config", "mirl_core.engines.base", "mirl_client")
for name in modules:
    module = importlib.import_module(name)
    assert module.__file__.startswith(sys.argv[1]), module.__file__
from mirl_core.bundled import DIGITS
assert (DIGITS.path / "model.safetensors").is_file()
assert all(question.file.is_file() for question in DIGITS.questions())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("mirl-*.whl")
    return built


def test_wheel_imports_without_torch_or_vllm(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{IMPORTS}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_wheel_holds_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"mirl_core", "mirl_server", "mirl_client"}
    assert sum(name.endswith("py.typed") for name in names) == 3
    for file in (
        "cli/vllm_flags.json",
        "apis/pages/docs.html",
        "apis/pages/docs.js",
        "apis/pages/start.html",
    ):
        assert f"mirl_server/{file}" in names


def test_wheel_is_small_enough_to_ship(wheel: Path) -> None:
    assert wheel.stat().st_size < 25 * 2**20


def test_wheel_declares_its_commands_and_plugin(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(entry_points).decode()
    for line in ("mirl-serve", "mirl-train", "mirl-eval", "[vllm.endpoint_plugins]"):
        assert line in text
