"""What `pip install ./clients/python .` without extras gives: core and client, without torch or vllm."""

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


# What the light package does not need: the command's packages, and all of the main distribution.
CLIENT_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rich", "PIL", "numpy", "mirl_core", "mirl_server", "torch", "vllm"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
import mirl_client
assert mirl_client.__file__.startswith(sys.argv[1]), mirl_client.__file__
from mirl_client.cli import main
sys.exit(main(["ask", "a.png", "why?"]))
"""


def built_wheel(project: Path, out: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=project,
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("mirl*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(ROOT / "clients" / "python", tmp_path_factory.mktemp("client-wheel"))


def text_in(wheel: Path, name: str) -> str:
    """Return a file of a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()


def test_wheel_imports_without_torch_or_vllm(wheel: Path, client_wheel: Path, tmp_path: Path) -> None:
    for built in (wheel, client_wheel):
        with zipfile.ZipFile(built) as archive:
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


def test_two_wheels_hold_three_packages_and_nothing_else(wheel: Path, client_wheel: Path) -> None:
    packages = []
    for built in (wheel, client_wheel):
        with zipfile.ZipFile(built) as archive:
            names = archive.namelist()
        packages.append({name.split("/")[0] for name in names if ".dist-info" not in name})
        assert sum(name.endswith("py.typed") for name in names) == len(packages[-1])
    assert packages == [{"mirl_core", "mirl_server"}, {"mirl_client"}]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for file in (
        "cli/flags/vllm.json",
        "apis/pages/docs.html",
        "apis/pages/docs.js",
        "apis/pages/start.html",
    ):
        assert f"mirl_server/{file}" in names
    playground = ROOT / "clients" / "playground"
    files = {file.relative_to(playground).as_posix() for file in playground.rglob("*") if file.is_file()}
    prefix = "mirl_server/apis/pages/playground_files/"
    assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == files


def test_the_client_needs_openai_and_pydantic_and_the_main_wheel_needs_the_client(
    wheel: Path, client_wheel: Path
) -> None:
    lines = text_in(client_wheel, "METADATA").splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required == ["Requires-Dist: openai>=2", "Requires-Dist: pydantic>=2.12"]
    assert "Requires-Dist: mirl-client[cli]" in text_in(wheel, "METADATA").splitlines()
    assert "mirl = mirl_client.cli:main" in text_in(client_wheel, "entry_points.txt")
    with zipfile.ZipFile(client_wheel) as archive:
        assert any(name.endswith("LICENSE") for name in archive.namelist())


def test_the_client_alone_imports_and_its_command_names_what_it_misses(
    client_wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(client_wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CLIENT_ALONE}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "mirl: the command needs rich: pip install 'mirl-client[cli]'\n"


def test_wheel_is_small_enough_to_ship(wheel: Path) -> None:
    assert wheel.stat().st_size < 25 * 2**20


def test_wheel_declares_its_commands_and_plugin(wheel: Path) -> None:
    text = text_in(wheel, "entry_points.txt")
    for line in ("mirl-serve", "mirl-train", "mirl-eval", "[vllm.endpoint_plugins]"):
        assert line in text
