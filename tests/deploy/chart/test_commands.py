"""The commands of the rendered pods, by the programs' own parsers: no pod starts with an unknown flag."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry

from mirl_server.cli.flags.server import mirl_parser, settings_from_flags
from mirl_server.cli.flags.vllm import read_vllm_flags
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings
from tests.deploy.chart.helm import WORKLOADS, Object, of_kind

pytestmark = pytest.mark.full

Answers = dict[str, dict[str, Any]]


def containers(answers: Answers, command: str) -> list[tuple[list[str], list[Object]]]:
    """Return the arguments of the containers that run a program, each with the objects of its release."""
    running = [
        (container["args"], answer["objects"])
        for answer in answers.values()
        for item in of_kind(answer["objects"], *WORKLOADS)
        for container in item["spec"]["template"]["spec"]["containers"]
        if container["command"] == [command]
    ]
    assert running
    return running


def files(objects: list[Object], folder: Path) -> dict[str, str]:
    """Write the release's settings and keys; return their paths by those that they have in the pod."""
    paths = {}
    mounts = {"-settings": "settings", "-keys": "keys"}
    for item in of_kind(objects, "ConfigMap", "Secret"):
        for ending, mount in mounts.items():
            for name, text in {**item.get("data", {}), **item.get("stringData", {})}.items():
                if item["metadata"]["name"].endswith(ending):
                    (folder / name).write_text(text)
                    paths[f"/etc/mirl/{mount}/{name}"] = str(folder / name)
    return paths


def test_mirl_serve_takes_its_flags_and_settings(answers: Answers, tmp_path: Path) -> None:
    parsed = 0
    gateway = "--engine-url" in mirl_parser()._option_string_actions
    for args, objects in containers(answers, "mirl-serve"):
        behind = any(text.startswith("--engine-url") for text in args)
        if behind and not gateway:
            continue  # this tree has no gateway yet
        here = list(args)
        for path, local in files(objects, tmp_path).items():
            here = [text.replace(path, local) for text in here]
        own, rest = mirl_parser().parse_known_args(here)
        settings = ServerSettings.load(**settings_from_flags(own))
        flags = read_vllm_flags(rest, settings.config)
        assert flags.unknown == []
        if behind:
            from mirl_server.gateway.flags import gateway_flags

            gateway_flags(flags)  # refuses those of an engine
        assert flags.values["port"] == 8000
        assert settings.shutdown_seconds is not None
        parsed += 1
    assert parsed == (7 if gateway else 5)


def test_a_wrong_flag_would_be_seen() -> None:
    from mirl_server.cli.flags.server import UsageError

    with pytest.raises(UsageError, match="--nosuch"):
        read_vllm_flags(["--nosuch=1"], None)


def test_keys_of_values_are_keys_of_the_server(answers: Answers, tmp_path: Path) -> None:
    from mirl_server.access.keys import parse_keys
    from mirl_server.settings.limits import KeyLimits

    paths = files(answers["fleet"]["objects"], tmp_path)
    text = Path(paths["/etc/mirl/keys/keys.yaml"]).read_text()
    (key,) = parse_keys(text, KeyLimits(), "keys.yaml")
    assert (key.name, key.limits.requests_per_minute) == ("team-a", 600)


@pytest.mark.parametrize("name", ["mirl-train", "mirl-eval"])
def test_jobs_take_their_arguments(answers: Answers, name: str) -> None:
    from mirl_core.evaluation import cli as evaluation
    from mirl_core.training import cli as training

    group: Any = typer.main.get_command(training.app if name == "mirl-train" else evaluation.app)
    for args, _ in containers(answers, name):
        parameters = group.commands[args[0]].make_context(args[0], args[1:]).params
        assert str(parameters["output"]).startswith("/runs/")


def test_the_recipe_of_the_example_is_valid(answers: Answers, tmp_path: Path) -> None:
    from mirl_core.training.rl.recipe.checks import load_rl_recipe

    maps = of_kind(answers["jobs"]["objects"], "ConfigMap")
    path = tmp_path / "recipe.yaml"
    path.write_text(maps[0]["data"]["recipe.yaml"])
    recipe = load_rl_recipe(path, {"output": "/runs/train"})
    assert recipe.steps == 300


def exported() -> set[str]:
    """Return the names of the series that MIRL exports."""
    names: set[str] = set()
    registry = CollectorRegistry()
    Metrics(registry)
    for family in registry.collect():
        names |= {family.name, *(sample.name for sample in family.samples)}
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
        if family.type == "counter":
            names.add(f"{family.name}_total")
    return names


def test_autoscalers_and_alerts_read_metrics_that_exist(answers: Answers) -> None:
    kinds = {"HorizontalPodAutoscaler": 0, "ScaledObject": 0, "PrometheusRule": 0}
    for answer in answers.values():
        for item in of_kind(answer["objects"], *kinds):
            names = set(re.findall(r"\bmirl_\w+", yaml.safe_dump(item["spec"])))
            if item["metadata"]["name"].endswith("-gateway"):
                assert not names  # it scales by the CPU
                continue
            assert names
            assert names <= exported()
            kinds[item["kind"]] += 1
    assert all(kinds.values())


def test_keda_counts_the_pods_of_this_release(answers: Answers) -> None:
    (scaled,) = of_kind(answers["gpu-single"]["objects"], "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert queries == [
        f'sum({name}{{namespace="mirl-prod",service="mirl"}})'
        for name in ("mirl_queue_requests", "mirl_sequences_in_flight")
    ]
