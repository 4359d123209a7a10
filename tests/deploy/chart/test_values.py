"""The values' schema, without Helm: it covers every value, and refuses what is wrong by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.chart.helm import CHART, EXAMPLES, ROOT, changed, example

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
FREE = "global"
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or the definition that it names."""
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def leaves(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every value that the schema names, objects included, by its dotted path."""
    schema = resolved(schema)
    if path:
        yield ".".join(path), schema
    for name, inner in schema.get("properties", {}).items():
        if name != FREE:
            yield from leaves(inner, (*path, name))


LEAVES = dict(leaves(SCHEMA))
OBJECTS = [path for path, schema in LEAVES.items() if schema.get("additionalProperties") is False]
WRONG: dict[str, object] = {
    "string": 7,
    "boolean": "yes",
    "integer": "many",
    "number": "much",
    "array": "alone",
    "object": ["alone"],
}


def wrong_value(schema: dict[str, Any]) -> object:
    """Return a value of a type that the schema does not take."""
    types = schema.get("type")
    if types is None:  # a number or a text, or one of two texts
        return ["alone"]
    return WRONG[types[0] if isinstance(types, list) else types]


def mentioned(errors: list[jsonschema.ValidationError]) -> set[str]:
    """Return the dotted paths that errors are at."""
    return {".".join(str(part) for part in error.absolute_path) for error in errors}


def errors_of(path: str, value: object) -> list[jsonschema.ValidationError]:
    """Return the schema's errors for the defaults with another value at a dotted path.

    Only the section of that path is checked, which is faster by far.
    """
    section = path.partition(".")[0]
    values = {"mode": DEFAULTS["mode"], section: DEFAULTS.get(section)}
    return list(VALIDATOR.iter_errors(changed(values, path, value)))


def test_the_schema_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_the_defaults_and_the_examples_fit() -> None:
    assert list(VALIDATOR.iter_errors(DEFAULTS)) == []
    for name in EXAMPLES:
        # A null takes a default away, so Helm checks the values without it.
        assert list(VALIDATOR.iter_errors({"mode": "engine", **example(name)})) == [], name


def test_every_value_has_a_default_and_every_default_a_schema() -> None:
    assert set(SCHEMA["properties"]) - {FREE} == set(DEFAULTS)
    for path in OBJECTS:
        place: Any = DEFAULTS
        for part in path.split("."):
            place = place.get(part, {})
        if place:  # not of one that is empty by default, such as engine.affinity
            assert set(place) == set(LEAVES[path]["properties"]), path


def test_unknown_keys_are_refused() -> None:
    assert len(OBJECTS) > 20
    for path in OBJECTS:
        errors = errors_of(f"{path}.nosuch", 1)
        assert mentioned(errors) == {path}
        assert "nosuch" in errors[0].message


def test_wrong_types_are_refused() -> None:
    assert len(LEAVES) > 100
    for path, schema in LEAVES.items():
        errors = errors_of(path, wrong_value(schema))
        assert mentioned(errors) == {path}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mode", "cluster"),
        ("engine.program", "sglang"),
        ("engine.image.digest", "sha256:12"),
        ("engine.gpu.count", -1),
        ("engine.gpu.resource", "gpu"),
        ("engine.sharedMemory", "plenty"),
        ("engine.resources.limits.memory", "12 GB"),
        ("server.port", 80),
        ("server.shutdownSeconds", -1),
        ("gateway.engineUrls", ["vllm:8000"]),
        ("gateway.engineUrls", ["http://user:word@vllm:8000"]),
        ("gateway.engineMode", "guess"),
        ("keys.values", {"team-a": "short"}),
        ("keys.values", {"team-a": {"key": "0123456789abcdef", "per_minute": 3}}),
        ("ingress.paths", ["v1"]),
        ("ingress.paths", []),
        ("httpRoute.requestTimeout", "soon"),
        ("networkPolicy.clients", [{}]),
        ("networkPolicy.clients", [{"nameSpaceSelector": {}}]),
        ("podDisruptionBudget.maxUnavailable", "200%"),
        ("podSecurity.runAsUser", 0),
        ("autoscaling.kind", "vpa"),
        ("cache.size", "0Gi"),
    ],
)
def test_wrong_values_are_refused(path: str, value: object) -> None:
    errors = errors_of(path, value)
    assert errors
    assert all(place.startswith(path) for place in mentioned(errors)), mentioned(errors)


def test_the_rules_are_those_of_prometheus() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_bytes()
    assert (CHART / "files" / "rules.yml").read_bytes() == rules, "cp deploy/prometheus/rules.yml it"


def test_the_version_is_the_project_s() -> None:
    from mirl_core import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
