"""The chart's Deployment as a pod: its security context, its command, and probes that the test calls."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from openai import OpenAI

from tests.deploy.chart.helm import Object, of_kind, start
from tests.deploy.docker.containers import Image, play, podman
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.ports import reserved_port
from tests.helpers.servers import NAME, RunningServer, running
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(7200)]
# The name by which podman lets a pod reach its machine.
HOST = "host.containers.internal"


@dataclass(frozen=True)
class Pod:
    """A pod with one container, made from the chart."""

    name: str
    url: str
    spec: Object
    """Of the container, as Helm rendered it."""
    grace_seconds: int

    def probe(self, which: str) -> httpx.Response:
        """Return the answer that a probe gets."""
        get = self.spec[which]["httpGet"]
        (port,) = [port for port in self.spec["ports"] if port["name"] == get["port"]]
        assert self.url.endswith(f":{port['containerPort']}")
        return httpx.get(f"{self.url}{get['path']}", timeout=self.spec[which]["timeoutSeconds"])


@pytest.fixture(scope="module")
def engine(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Yield a vLLM server with the routes for tokens, which pods can reach."""
    flags = ("--host", "0.0.0.0", "--enable-scale-out")
    with running(tmp_path_factory.mktemp("engine"), flags) as started:
        yield started


@pytest.fixture(scope="module")
def pod(
    gateway_image: Image, engine: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pod]:
    """Yield the gateway's pod, played from the rendered Deployment."""
    name, _, tag = f"{gateway_image.name}:latest".rpartition(":")
    with reserved_port() as port:
        values: dict[str, Any] = {
            "mode": "gateway",
            "gateway": {
                "replicas": 1,
                "image": {"repository": name, "tag": tag, "pullPolicy": "Never"},
                "engineUrls": [engine.url.replace("127.0.0.1", HOST)],
                "tokenizer": NAME,
            },
            "server": {"port": port},
        }
        with start() as helm:
            (deployment,) = of_kind(helm.objects(values), "Deployment")
        file = tmp_path_factory.mktemp("pod") / "deployment.yaml"
        file.write_text(yaml.safe_dump(deployment))
    try:
        play(file)
        template = deployment["spec"]["template"]["spec"]
        (spec,) = template["containers"]
        (container,) = [
            name
            for name in podman("ps", "--format", "{{.Names}}").split()
            if name.endswith(f"-{spec['name']}")
        ]
        grace = template["terminationGracePeriodSeconds"]
        yield Pod(container, f"http://127.0.0.1:{port}", spec, grace)
    finally:
        podman("kube", "down", file)


def test_probes_answer_and_a_gated_question_is_answered(pod: Pod, engine: RunningServer) -> None:
    def started() -> bool:
        try:
            return pod.probe("startupProbe").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(started, 60)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: pod.probe("readinessProbe").status_code == 200, 60)
    ready = pod.probe("readinessProbe")
    assert ready.status_code == 200, ready.text
    assert pod.probe("livenessProbe").status_code == 200
    with OpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        answer = client.chat.completions.create(
            model=NAME, messages=image_question(), extra_body=small_fan_out()
        )
    assert len(answer.model_dump()["mirl"]["descriptions"]) == 3
    assert engine.gauge("vllm:request_success_total") > 0


def test_the_container_has_the_rights_of_the_chart(pod: Pod) -> None:
    (container,) = json.loads(podman("inspect", pod.name))
    security = pod.spec["securityContext"]
    assert security["readOnlyRootFilesystem"] is container["HostConfig"]["ReadonlyRootfs"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not container["EffectiveCaps"]
    assert not container["BoundingCaps"]
    assert security["allowPrivilegeEscalation"] is False
    assert "no-new-privileges" in container["HostConfig"]["SecurityOpt"]
    assert podman("exec", pod.name, "id", "-u").strip() == "65532"


def test_it_stops_by_itself_within_the_grace_period(pod: Pod) -> None:
    # A signal by `podman kill` is a death, after which the Deployment's policy starts the container again.
    podman("stop", "--time", str(pod.grace_seconds), pod.name)
    (container,) = json.loads(podman("inspect", pod.name))
    assert container["State"]["ExitCode"] == 0
