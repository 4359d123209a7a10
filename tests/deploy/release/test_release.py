"""A release: two builds of a commit are equal byte by byte, and hold what they should."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import canonicalize_name

from tests.deploy.tools import ROOT, TOOLS, tool

SCRIPT = ROOT / "deploy" / "release" / "release.py"


def script() -> ModuleType:
    """Return the module that builds a release."""
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        script().release(tmp_path, "HEAD", TOOLS)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_two_charts_are_equal_whatever_the_time_and_the_modes_of_files(tmp_path: Path) -> None:
    packed = []
    for name, mode in (("first", 0o644), ("second", 0o600)):
        chart = tmp_path / name / "mirl"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: mirl\nversion: 1.2.3\n")
        (chart / "templates" / "a.yaml").write_text("a: 1\n")
        for file in (chart / "Chart.yaml", chart / "templates" / "a.yaml"):
            file.chmod(mode)
            os.utime(file, (mode, mode))
        target = tmp_path / f"{name}-out"
        target.mkdir()
        script()._pack_chart(chart, target, 1_700_000_000)
        packed.append((target / "mirl-chart-1.2.3.tgz").read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(target / "mirl-chart-1.2.3.tgz") as archive:
        assert archive.getnames() == ["mirl/Chart.yaml", "mirl/templates/a.yaml"]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two releases of the same commit, built one after the other under different settings."""
    for name in ("git", "npm"):
        tool(name)
    if not (TOOLS / "cyclonedx-py").exists():
        pytest.skip("cyclonedx-py is not installed: make test-full")
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("releases")
    for name, settings in (
        ("one", {"TZ": "Asia/Tokyo", "LC_ALL": "C"}),
        ("two", {"TZ": "UTC", "HOME": str(folder)}),
    ):
        subprocess.run(
            [sys.executable, SCRIPT, folder / name, "--tools", TOOLS],
            cwd=folder, env={**os.environ, **settings}, check=True,
        )  # fmt: skip
        time.sleep(2)
    return folder / "one", folder / "two"


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_releases_of_a_commit_are_equal(releases: tuple[Path, Path]) -> None:
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in releases)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    for name, content in sorted(first.items()):
        print(f"{hashlib.sha256(content).hexdigest()[:16]}  {len(content):>9}  {name}")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_release_is_complete(releases: tuple[Path, Path]) -> None:
    folder, _ = releases
    names = sorted(re.sub(r"\d+\.\d+\.\d+", "V", file.name) for file in folder.iterdir())
    expected = {
        *("SHA256SUMS", "mirl-V-py3-none-any.whl", "mirl-V.tar.gz", "mirl-client-V.tgz"),
        *("mirl_client-V-py3-none-any.whl", "mirl_client-V.tar.gz"),
        *("mirl-cpu.cdx.json", "mirl-gateway.cdx.json", "mirl-client-typescript.cdx.json"),
    }
    if (ROOT / "deploy/helm/mirl").is_dir():
        expected.add("mirl-chart-V.tgz")
    assert set(names) == expected
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_bills_of_material_have_every_locked_package(releases: tuple[Path, Path]) -> None:
    folder, _ = releases
    for name in ("cpu", "gateway"):
        locked = set((ROOT / "requirements" / f"{name}.lock").read_text().split())
        bill = json.loads((folder / f"mirl-{name}.cdx.json").read_text())
        assert bill["bomFormat"] == "CycloneDX"
        assert {f"{part['name']}=={part['version']}" for part in bill["components"]} == locked
        assert all(part["purl"].startswith("pkg:pypi/") for part in bill["components"])


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_source_distribution_has_all_that_the_wheel_has(releases: tuple[Path, Path]) -> None:
    folder, _ = releases
    (source,) = folder.glob("mirl-*.tar.gz")
    (wheel,) = folder.glob("mirl-*.whl")
    with tarfile.open(source) as archive:
        sources = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    with zipfile.ZipFile(wheel) as content:
        installed = {name for name in content.namelist() if name.startswith("mirl_core/")}
    assert installed <= sources
    assert not [name for name in sources if name.startswith(("tests/", "docs/", ".venv/"))]


def test_the_page_of_licenses_has_every_locked_package() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| (\S+) \| .+ \|$", (ROOT / "docs" / "licenses.md").read_text(), re.M)
    lines = [
        line.split("==")
        for name in ("cpu", "gateway")
        for line in (ROOT / "requirements" / f"{name}.lock").read_text().split()
    ]
    locked = {f"{canonicalize_name(name)}=={version}" for name, version in lines}
    assert {f"{name}=={version}" for name, version in rows if version[0].isdigit()} == locked
