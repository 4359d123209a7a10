"""Kubernetes' schemas, and the types of other projects' custom resources."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart.helm import Object, program

OLDEST, NEWEST = "1.30", "1.37"
"""The versions of Kubernetes that the chart is checked for; kubeVersion in Chart.yaml has the oldest."""
CUSTOM = ("gateway.networking.k8s.io/", "keda.sh/", "monitoring.coreos.com/")
SCRIPT = Path(__file__).parent / "apart" / "validate.py"
PACKAGES = Path(__file__).parents[1] / "npm"


def is_custom(item: Object) -> bool:
    """Return whether an object is a custom resource of a project whose types are checked."""
    return str(item["apiVersion"]).startswith(CUSTOM)


def faults(objects: list[Object], versions: tuple[str, ...] = (OLDEST, NEWEST)) -> list[str]:
    """Return what Kubernetes' schemas refuse in objects of its own kinds."""
    request = json.dumps({"versions": versions, "objects": objects})
    done = subprocess.run(
        [program("deploy"), SCRIPT], input=request, capture_output=True, text=True, check=True
    )
    texts: list[str] = json.loads(done.stdout)
    return texts


def install_types(folder: Path) -> Path:
    """Install the packages of custom resources' types; return the folder. Skip the test without npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    shutil.copytree(PACKAGES, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def custom_faults(folder: Path, objects: list[Object]) -> list[str]:
    """Return what the types of other projects refuse in their custom resources."""
    done = subprocess.run(
        ["node", "check.mjs"], cwd=folder, input=json.dumps(objects),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    texts: list[str] = json.loads(done.stdout)
    return texts
