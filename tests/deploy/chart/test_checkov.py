"""Checkov's rules about Kubernetes, with every exception explained."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart.helm import program

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

EXCEPTIONS = {
    "CKV_K8S_43": "A digest belongs to an image that somebody has built: engine.image.digest sets it.",
    "CKV_K8S_15": "Tags are versions, which do not change; Always would stop a pod whose registry is away.",
    "CKV_K8S_35": "The gateway reads its key at the servers from the environment alone (gateway.engineKey).",
    "CKV_K8S_40": "On OpenShift the platform chooses the user id (podSecurity.runAsUser: null).",
}


def failed(folder: Path, objects: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Return the checks that objects fail: the objects by the check's id."""
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    command = [
        program("checkov", "checkov"), "--framework", "kubernetes", "--skip-download", "--quiet", "--compact",
        "--output", "json", "--directory", folder,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 0
    assert report["summary"]["parsing_errors"] == 0
    checks: dict[str, set[str]] = {}
    for check in report["results"]["failed_checks"]:
        checks.setdefault(check["check_id"], set()).add(check["resource"])
    return checks


def test_checkov_finds_nothing_but_the_exceptions(answers: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    objects = []
    for name, answer in answers.items():
        for item in answer["objects"]:
            item = json.loads(json.dumps(item))
            # Objects of one name are one object to checkov.
            item["metadata"]["name"] += f"-{name}"
            objects.append(item)
    privileged = json.loads(json.dumps(next(item for item in objects if item["kind"] == "Deployment")))
    privileged["metadata"]["name"] = "wrong"
    privileged["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    checks = failed(tmp_path, [*objects, privileged])
    assert checks.pop("CKV_K8S_16") == {"Deployment.mirl-prod.wrong"}, "checkov sees no privileged container"
    assert set(checks) == set(EXCEPTIONS), checks
    assert all("openshift" in name for name in checks["CKV_K8S_40"])
    assert all("existing-service" in name for name in checks["CKV_K8S_35"])
