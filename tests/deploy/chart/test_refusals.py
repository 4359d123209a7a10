"""Values that Helm refuses, with the field in the message: by the schema, and where several contradict."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.deploy.chart.helm import EXAMPLES, Helm, changed, example

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_misspelt_key_is_named(helm: Helm, name: str) -> None:
    """Every key of every example, misspelt: nothing is silently without effect."""
    values = example(name)

    def paths(place: object, prefix: str) -> list[str]:
        if not isinstance(place, dict):
            return []
        names = {f"{prefix}{key}": inner for key, inner in place.items()}
        return [path for name, inner in names.items() for path in (name, *paths(inner, f"{name}."))]

    # Free by their nature: settings are checked by mirl-serve, recipes by mirl-train, labels by nobody.
    free = re.compile(r"(settings|recipe|[lL]abels|annotations|nodeSelector|keys\.values|requests|limits)\.")
    checked = [path for path in paths(values, "") if "/" not in path and not free.search(path)]
    assert checked
    for path in checked:
        parent, _, key = path.rpartition(".")
        copy: dict[str, Any] = json.loads(json.dumps(values))
        place = copy
        for part in parent.split(".") if parent else []:
            place = place[part]
        place[f"{key}x"] = place.pop(key)
        assert f"{key}x" in helm.error(copy), path


@pytest.mark.parametrize(
    ("base", "path", "value", "field"),
    [
        ("cpu-demo", "mode", "cluster", "mode"),
        ("cpu-demo", "server.port", "http", "port"),
        ("cpu-demo", "mode", "gateway", "gateway.engineUrls"),
        ("cpu-demo", "gateway.engineUrls", ["http://vllm:8000"], "gateway.engineUrls"),
        ("cpu-demo", "engine.program", "vllm", "engine.program"),
        ("cpu-demo", "engine.env", [{"name": "VLLM_SERVER_DEV_MODE", "value": "1"}], "engine.env"),
        ("cpu-demo", "gateway.engineKey.secretName", "key", "gateway.engineKey.secretName"),
        ("fleet", "model.name", "", None),
        ("fleet", "keys.existingSecret", "keys", "keys.values"),
        ("fleet", "autoscaling.minReplicas", 9, "autoscaling.minReplicas"),
        ("fleet", "gateway.autoscaling.minReplicas", 9, "gateway.autoscaling.minReplicas"),
        ("fleet", "server.settings.access.open_paths", ["/health"], "serviceMonitor.keySecret.name"),
        ("fleet", "httpRoute.parentRefs", [], "httpRoute.parentRefs"),
        ("gpu-single", "ingress.hosts", [], "ingress.hosts"),
        ("gpu-single", "cache.accessModes", ["ReadWriteOnce"], "cache.accessModes"),
        ("existing-service", "autoscaling.kind", "hpa", "autoscaling.kind"),
        ("jobs", "jobs.train.recipe", {}, "jobs.train.recipe"),
        ("cpu-demo", "mode", "jobs", "jobs"),
        ("cpu-demo", "jobs.train.enabled", True, "jobs.train.recipe"),
    ],
)
def test_contradictions_are_named(helm: Helm, base: str, path: str, value: object, field: str | None) -> None:
    values = changed(example(base), path, value)
    if field is None:  # right as it is: the bundled model
        helm.objects(values)
    else:
        assert field in helm.error(values)


def test_vllm_itself_needs_a_model(helm: Helm) -> None:
    values = changed(changed(example("fleet"), "model", {"name": ""}), "engine.program", "vllm")
    assert "model.name" in helm.error(values)
