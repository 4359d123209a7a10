"""Several nodes: what the Kubernetes Job says starts ranks that meet, on one machine in place of two."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.ports import reserved_port

ROOT = Path(__file__).parents[5]
FOLDER = ROOT / "deploy" / "training"


def job() -> dict[str, Any]:
    service, manifest = yaml.safe_load_all((FOLDER / "indexed-job.yaml").read_text())
    assert (service["kind"], manifest["kind"]) == ("Service", "Job")
    assert service["spec"]["clusterIP"] == "None"
    return manifest


def container(name: str) -> dict[str, Any]:
    pod = job()["spec"]["template"]["spec"]
    (matching,) = [entry for entry in [*pod["initContainers"], *pod["containers"]] if entry["name"] == name]
    return matching


def environment(spec: dict[str, Any], **changes: str) -> dict[str, str]:
    """The container's own variables, with what only a cluster knows."""
    own = {entry["name"]: entry.get("value") for entry in spec["env"]}
    assert changes.keys() <= {*own, "JOB_COMPLETION_INDEX"}
    values = {name: value for name, value in (own | changes).items() if value is not None}
    assert values.keys() >= own.keys(), "every variable has a value"
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **values, **here, "PATH": path}


def started(spec: dict[str, Any], swap: tuple[str, str], env: dict[str, str], log: Path) -> Any:
    """The container's command, with one word of it swapped."""
    (line,) = spec["args"]
    assert line.count(swap[0]) == 1
    with log.open("w") as out:
        words = [*spec["command"], line.replace(*swap)]
        return subprocess.Popen(words, env=env, cwd=ROOT, stdout=out, stderr=out)


@pytest.fixture
def meet() -> Iterator[str]:
    """Yield the rendezvous's address, on a port that is held for it."""
    with reserved_port() as port:
        yield f"127.0.0.1:{port}"


@pytest.mark.full
def test_two_nodes_of_the_job_find_each_other(tmp_path: Path, meet: str) -> None:
    train = container("train")
    nodes, logs = [], []
    try:
        for index in ("1", "0"):
            env = environment(
                train,
                JOB_COMPLETION_INDEX=index,
                GPUS="1",
                MEET=meet,
                POD_IP="127.0.0.1",
                OUTPUT=str(tmp_path),
            )
            logs.append(tmp_path / f"{index}.log")
            nodes.append(started(train, ("mirl_core.training.cli", "tests.fixtures.rl_nodes"), env, logs[-1]))
        for node in nodes:
            node.wait(timeout=240)
    finally:
        for node in nodes:
            node.terminate()
            node.wait()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    said = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert [report["rank"] for report in said[0]] == [0, 1]
    assert {report["node"] for report in said[0]} == {"0", "1"}
    assert {report["recipe"] for report in said[0]} == {"recipe.yaml"}


def test_a_wrong_recipe_ends_the_job_at_once(tmp_path: Path) -> None:
    wrong = tmp_path / "recipe.yaml"
    wrong.write_text("model: bundled\noutput: x\nrollout: {keep: 99}\n")
    spec = container("check")
    env = environment(spec, CONFIG=str(wrong), OUTPUT=str(tmp_path / "run"))
    log = tmp_path / "log"
    code = started(spec, ("mirl-train", "python -m mirl_core.training.cli"), env, log).wait(timeout=120)
    assert "rollout.keep" in log.read_text()
    policy = job()["spec"]["podFailurePolicy"]["rules"]
    (final,) = [rule["onExitCodes"] for rule in policy if rule["action"] == "FailJob"]
    assert (final["containerName"], final["values"]) == ("check", [code])


def test_the_job_agrees_with_itself() -> None:
    spec = job()["spec"]
    pod = spec["template"]["spec"]
    train = container("train")
    values = {entry["name"]: entry.get("value") for entry in train["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(values["NODES"])
    assert train["resources"]["limits"]["nvidia.com/gpu"] == int(values["GPUS"])
    # A pod failure policy requires it.
    assert pod["restartPolicy"] == "Never"
    # Ranks get their time before torchrun ends them, and torchrun before the kubelet does.
    assert 30 < int(values["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    # Pods are called JOB-INDEX.SUBDOMAIN.
    assert values["MEET"].startswith(f"{job()['metadata']['name']}-0.{pod['subdomain']}:")
    there = {volume["name"] for volume in pod["volumes"]}
    for pod_container in (train, container("check")):
        assert {mount["name"] for mount in pod_container["volumeMounts"]} == there


@pytest.mark.parametrize("host", [True, False])
def test_ray_starts_torchrun_with_a_line_that_it_takes(host: bool) -> None:
    from torch.distributed.run import config_from_args, parse_args

    spec = importlib.util.spec_from_file_location("ray_job", FOLDER / "ray_job.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    line = script.command(2, 8, "10.0.0.1:29400", host, ["--config", "r.yaml", "--output", "o"])
    assert line[1:3] == ["-m", "torch.distributed.run"]
    config, program, words = config_from_args(parse_args(line[3:]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "10.0.0.1:29400")
    assert config.rdzv_configs["is_host"] == str(int(host))
    assert program == sys.executable
    assert words[-6:] == ["mirl_core.training.cli", "rl", "--config", "r.yaml", "--output", "o"]
