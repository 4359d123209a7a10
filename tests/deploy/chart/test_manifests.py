"""The plain manifests are the chart's, and Kubernetes takes them as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.chart.helm import ROOT, pods, program
from tests.deploy.chart.validation import faults

FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.full
def test_they_are_those_of_the_chart() -> None:
    command = [program("deploy"), FOLDER / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_kubernetes_takes_them() -> None:
    assert len(MANIFESTS) >= 4
    for path in MANIFESTS:
        assert faults(list(yaml.safe_load_all(path.read_text()))) == [], path.name


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_they_need_nothing_but_kubernetes(path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    assert objects[0]["kind"] == "Namespace"
    assert all(item["metadata"]["namespace"] == objects[0]["metadata"]["name"] for item in objects[1:])
    assert all("helm.sh/chart" not in item["metadata"].get("labels", {}) for item in objects)
    assert pods(objects)
    for item in objects:
        group = item["apiVersion"].rpartition("/")[0]
        assert group in ("", "apps", "policy", "networking.k8s.io"), item["kind"]
