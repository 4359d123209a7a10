"""The compose file runs: the CPU image, and images of Debian's Prometheus and Alertmanager.

These stand in for the official images, with their paths, user and command lines. Grafana is in no package of
Debian's, so it stays out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest
import yaml
from openai import OpenAI

from tests.deploy.docker.containers import (
    PYTHON_IMAGE,
    STORE,
    Image,
    buildah,
    podman_script,
    podman_settings,
)
from tests.deploy.observability.watching import Watch
from tests.deploy.tools import ROOT, TOOLS, output_of, tool
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(7200)]
NOBODY = "65534:65534"
SERVICES = ("mirl", "prometheus", "alertmanager")
SERVER, PROMETHEUS, ALERTMANAGER = (f"http://127.0.0.1:{port}" for port in (8000, 9090, 9093))


def stand_in(name: str, program: str, folder: str, *files: str) -> str:
    """Build an image of a program of this machine; return its name.

    Args:
        name: of the program in the official image.
        program: its name here.
        folder: where it keeps its data.
        files: folders that it reads.
    """
    container = buildah("from", "--pull-never", PYTHON_IMAGE).strip()
    buildah("copy", container, tool(program), f"/bin/{name}")
    for file in files:
        buildah("copy", container, file, file)
    (STORE / "empty").mkdir(exist_ok=True)
    buildah("copy", "--chown", NOBODY, container, STORE / "empty", folder)
    storage = "--storage.tsdb.path" if name == "prometheus" else "--storage.path"
    command = f"--config.file=/etc/{name}/{name}.yml {storage}={folder}"
    entry = f'["/bin/{name}"]'
    buildah(
        "config", "--user", NOBODY, "--volume", folder, "--entrypoint", entry, "--cmd", command, container,
    )  # fmt: skip
    buildah("commit", "--rm", "--format", "docker", container, f"localhost/{name}")
    return f"localhost/{name}"


@pytest.fixture(scope="module", autouse=True)
def _stack(cpu_image: Image) -> Iterator[None]:
    """Bring the services up, and take them down with their volumes."""
    if not (TOOLS / "podman-compose").exists():
        pytest.skip("podman-compose is not installed: make test-full")
    environment = {
        **os.environ,
        "CONTAINERS_CONF": str(podman_settings()),
        "MIRL_IMAGE": cpu_image.name,
        "PROMETHEUS_IMAGE": stand_in("prometheus", "prometheus", "/prometheus"),
        "ALERTMANAGER_IMAGE": stand_in(
            "alertmanager", "prometheus-alertmanager", "/alertmanager", "/usr/share/prometheus"
        ),
        "GRAFANA_PASSWORD": "not used",
    }

    def compose(*arguments: str) -> None:
        subprocess.run(
            [
                TOOLS / "podman-compose", "--podman-path", podman_script(), "--in-pod", "false",
                "--file", ROOT / "deploy" / "compose" / "compose.yaml", *arguments,
            ],
            env=environment, check=True,
        )  # fmt: skip

    try:
        compose("up", "--detach", *SERVICES)
        yield
    finally:
        compose("down", "--volumes")


def test_prometheus_scrapes_the_server_and_evaluates_every_rule() -> None:
    def ready(url: str) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
        return False

    for url in (PROMETHEUS, ALERTMANAGER):
        wait_until(lambda url=url: ready(url), 60)
    watch = Watch(PROMETHEUS, [])
    wait_until(lambda: [row["value"][1] for row in watch.query('up{job="mirl"}')] == ["1"], 300)
    wait_until(lambda: all(rule["health"] == "ok" for rule in watch.rules().values()), 120)
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
    assert watch.rules().keys() == {rule["alert"] for group in groups for rule in group["rules"]}
    url = f"{PROMETHEUS}/api/v1/alertmanagers"
    assert len(httpx.get(url).json()["data"]["activeAlertmanagers"]) == 1


def test_a_gated_question_is_answered() -> None:
    wait_until(lambda: httpx.get(f"{SERVER}/ready", timeout=5).status_code == 200, 300)
    with OpenAI(base_url=f"{SERVER}/v1", api_key="none", max_retries=0, timeout=600) as client:
        name = client.models.list().data[0].id
        result = client.chat.completions.create(
            model=name, messages=image_question(), extra_body=small_fan_out()
        )
    assert len(result.model_dump()["mirl"]["descriptions"]) == 3


def test_the_services_have_no_rights() -> None:
    for service in SERVICES:
        fields = "{{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}} {{.HostConfig.SecurityOpt}}"
        shown = output_of(podman_script(), "inspect", "--format", fields, f"mirl_{service}_1")
        assert shown.split() == ["true", "[]", "[no-new-privileges]"]
