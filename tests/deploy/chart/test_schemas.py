"""Every object that the chart renders, by the schemas of Kubernetes and of other projects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart.helm import Object, changed, of_kind
from tests.deploy.chart.validation import NEWEST, OLDEST, custom_faults, faults, install_types, is_custom

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def objects(answers: dict[str, dict[str, Any]]) -> list[Object]:
    return [item for answer in answers.values() for item in answer.get("objects", [])]


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_types(tmp_path_factory.mktemp("types") / "npm")


def test_helm_lints_and_renders_every_example(answers: dict[str, dict[str, Any]]) -> None:
    assert len(answers) > 6
    for name, answer in answers.items():
        assert answer.get("error") is None, f"{name}: {answer['error']}"
        assert answer["lint"] == [], name
        assert answer["objects"], name
        assert answer["notes"], name


def test_the_examples_render_every_kind_that_the_chart_has(objects: list[Object]) -> None:
    assert {item["kind"] for item in objects} == {
        "ConfigMap", "Deployment", "HTTPRoute", "HorizontalPodAutoscaler", "Ingress", "Job", "NetworkPolicy",
        "PersistentVolumeClaim", "PodDisruptionBudget", "PrometheusRule", "ScaledObject", "Secret", "Service",
        "ServiceAccount", "ServiceMonitor", "StatefulSet",
    }  # fmt: skip


def test_kubernetes_takes_its_own_kinds(objects: list[Object]) -> None:
    own = [item for item in objects if not is_custom(item)]
    assert len(own) > 40
    assert faults(own) == []


def test_faults_in_kubernetes_kinds_are_seen(objects: list[Object]) -> None:
    deployment = of_kind(objects, "Deployment")[0]
    misspelt = changed(deployment, "spec.template.spec.terminationGraceSeconds", 3)
    unknown = changed(deployment, "kind", "Deploiment")
    for version in (OLDEST, NEWEST):
        wrong = faults([misspelt, unknown], (version,))
        assert len(wrong) == 2
        assert "terminationGraceSeconds" in wrong[0]
        assert "unknown kind" in wrong[1]


def test_the_projects_take_their_custom_resources(objects: list[Object], types: Path) -> None:
    custom = [item for item in objects if is_custom(item)]
    assert {item["kind"] for item in custom} == {
        "HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor",
    }  # fmt: skip
    assert custom_faults(types, custom) == []


def test_faults_in_custom_resources_are_seen(objects: list[Object], types: Path) -> None:
    first = {item["kind"]: item for item in objects if is_custom(item)}
    wrong = [changed(item, "spec.nosuch", 1) for item in first.values()]
    text = json.dumps(custom_faults(types, wrong))
    assert text.count("nosuch") == len(first)
    assert "unknown kind" in custom_faults(types, [changed(wrong[0], "kind", "Nosuch")])[0]
    route = changed(first["HTTPRoute"], "spec.hostnames", ["not a host"])
    assert "hostnames" in custom_faults(types, [route])[0]


def test_the_lock_names_no_registry() -> None:
    from tests.deploy.chart.validation import PACKAGES

    lock = json.loads((PACKAGES / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)
