"""deploy/platforms by the projects' own schemas, and against the traps that were seen in their sources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client import CollectorRegistry

from mirl_server.cli.flags.vllm import read_vllm_flags
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.files import stray_variables
from mirl_server.settings.server import ServerSettings

FOLDER = Path(__file__).parents[3] / "deploy" / "platforms"
SCHEMAS = Path(__file__).parent / "schemas"
PLATFORMS = ("kserve", "llm-d", "production-stack")


def content(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return values


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))


def parts(value: object) -> Iterator[Any]:
    """Yield every mapping in a value."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from parts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from parts(inner)


def environment(name: str) -> dict[str, str]:
    """Return the environment that a platform's file gives to vLLM."""
    variables: dict[str, str] = {}
    for part in parts(content(name)):
        if isinstance(part.get("env"), list):
            variables |= {item["name"]: item["value"] for item in part["env"]}
    return variables


def engine_flags(name: str) -> list[str]:
    """Return the further flags that a platform's file gives to `vllm serve`."""
    values = content(name)
    if name == "kserve":
        return environment(name)["VLLM_ADDITIONAL_ARGS"].split()
    if name == "llm-d":
        flags: list[str] = values["decode"]["containers"][0]["args"]
        return flags
    config = values["servingEngineSpec"]["modelSpec"][0]["vllmConfig"]
    extra: list[str] = config["extraArgs"]
    return extra


def test_every_file_has_a_schema() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PLATFORMS)
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(PLATFORMS)


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_project_s_schema_takes_it(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(validator(name).schema)
    assert [error.message for error in validator(name).iter_errors(content(name))] == []


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_schemas_say_where_they_are_from(name: str) -> None:
    comment = json.loads((SCHEMAS / f"{name}.json").read_text())["$comment"]
    assert re.search(r"github\.com/\S+ at [0-9a-f]{40}, Apache-2\.0", comment)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("kserve", "spec.replica", 2),
        ("kserve", "spec.model.url", "hf://x"),
        ("kserve", "spec.replicas", "two"),
        ("kserve", "spec.template.terminationGraceSeconds", 60),
        ("kserve", "spec.router.schedule", {}),
        ("llm-d", "routing.proxies", {}),
        ("llm-d", "decode.create", "yes"),
        ("llm-d", "accelerator.kind", "nvidia"),
        ("production-stack", "servingEngineSpec.modelSpecs", []),
        ("production-stack", "routerSpec.routingLogic", "cleverly"),
        ("production-stack", "routerSpec.sessionKeys", "x"),
    ],
)
def test_a_fault_would_be_seen(name: str, path: str, value: object) -> None:
    wrong = content(name)
    place = wrong
    *above, last = path.split(".")
    for part in above:
        place = place[part]
    place[last] = value
    assert list(validator(name).iter_errors(wrong))


@pytest.mark.parametrize("name", PLATFORMS)
def test_mirl_is_loaded_and_its_variables_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment(name)
    assert "mirl" in variables["VLLM_PLUGINS"].split(",")
    assert stray_variables(ServerSettings, variables) == []
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert ServerSettings.load().log.format == "json"


@pytest.mark.parametrize("name", PLATFORMS)
def test_its_flags_are_vllm_s(name: str) -> None:
    assert read_vllm_flags(engine_flags(name), None).unknown == []


def test_prefixes_are_cached() -> None:
    """Production-stack's template turns the prefix cache off unless this is true."""
    for model in content("production-stack")["servingEngineSpec"]["modelSpec"]:
        assert model["vllmConfig"]["enablePrefixCaching"] is True
    for name in ("kserve", "llm-d"):
        assert "--enable-prefix-caching" in engine_flags(name)


def test_requests_drain() -> None:
    """vLLM's own command has a shutdown timeout of 0. KServe's template sets one, the two charts set none."""
    for name in ("llm-d", "production-stack"):
        flags = read_vllm_flags(engine_flags(name), None).values
        # The pods' grace is Kubernetes' default of 30 s, and the server ends 8 s after this time.
        assert 0 < flags["shutdown-timeout"] <= 30 - 8
    grace = content("kserve")["spec"]["template"]["terminationGracePeriodSeconds"]
    pre_stop = 15  # in KServe's template
    assert pre_stop + float(environment("kserve")["MIRL_SHUTDOWN_SECONDS"]) + 8 <= grace


def test_keda_counts_the_queue_of_mirl() -> None:
    values = content("production-stack")
    assert values["servingEngineSpec"]["modelSpec"][0]["keda"] == {"enabled": False}
    (scaled,) = values["extraObjects"]
    (query,) = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    registry = CollectorRegistry()
    Metrics(registry)
    assert re.findall(r"mirl_\w+", query) == ["mirl_queue_requests"]
    assert "mirl_queue_requests" in {family.name for family in registry.collect()}
    model = values["servingEngineSpec"]["modelSpec"][0]["name"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == f"mirl-{model}-deployment-vllm"
