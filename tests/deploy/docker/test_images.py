"""The gateway and the CPU image are built and run: without rights, on a read-only root, to their stop."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.deploy.docker.containers import Container, Image, podman, running_container
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(7200)]
NO_ENGINE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def gateway(gateway_image: Image) -> Iterator[Container]:
    """Yield a gateway whose engine does not answer."""
    with running_container(gateway_image, ["--engine-url", NO_ENGINE]) as container:
        yield container


def test_the_gateway_answers_and_waits_for_its_engine(gateway_image: Image, gateway: Container) -> None:
    print(
        f"gateway: {gateway_image.bytes / 1e6:.0f} MB, built in {gateway_image.build_seconds:.0f} s, "
        f"/health after {gateway.start_seconds:.1f} s"
    )
    assert httpx.get(f"{gateway.url}/health").status_code == 200
    assert httpx.get(f"{gateway.url}/ready").status_code == 503


def test_the_gateway_can_write_nowhere_but_in_tmp(gateway: Container) -> None:
    code = "import os, sys; print(os.getuid()); open('/tmp/a', 'w'); open(sys.argv[1], 'w')"
    for path in ("/a", "/opt/mirl/a", "/etc/a"):
        done = gateway.run("/opt/mirl/bin/python", "-c", code, path)
        assert done.stdout.split() == ["65532"]
        assert "Read-only file system" in done.stderr


def test_the_image_has_no_vllm_no_torch_and_no_pip(gateway: Container) -> None:
    for name in ("vllm", "torch", "pip"):
        done = gateway.run("/opt/mirl/bin/python", "-c", f"import {name}")
        assert "ModuleNotFoundError" in done.stderr, name


def test_the_health_check_of_the_image_is_kept(gateway_image: Image) -> None:
    (image,) = json.loads(podman("image", "inspect", gateway_image.name))
    assert image["Healthcheck"]["Test"][:2] == ["CMD", "/opt/mirl/bin/python"]
    assert image["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_sigterm_stops_the_gateway(gateway_image: Image) -> None:
    with running_container(gateway_image, ["--engine-url", NO_ENGINE]) as container:
        code, seconds = container.stop()
    print(f"gateway: exit code {code} {seconds:.1f} s after SIGTERM")
    assert code == 0
    assert seconds < 30


def test_a_gated_question_through_the_container_of_the_cpu_image(cpu_image: Image) -> None:
    with running_container(cpu_image, ["--model", NAME]) as container:
        wait_until(lambda: httpx.get(f"{container.url}/ready", timeout=5).status_code == 200, 600)
        print(
            f"cpu: {cpu_image.bytes / 1e6:.0f} MB, built in {cpu_image.build_seconds:.0f} s, "
            f"/health after {container.start_seconds:.1f} s"
        )
        with OpenAI(base_url=f"{container.url}/v1", api_key="none", max_retries=0, timeout=600) as client:
            answer = client.chat.completions.create(
                model=NAME, messages=image_question(), extra_body=small_fan_out()
            )
        evidence = answer.model_dump()["mirl"]
        assert len(evidence["descriptions"]) == 3
        assert sum(description["kept"] for description in evidence["descriptions"]) <= 2
        code, seconds = container.stop()
    print(f"cpu: exit code {code} {seconds:.1f} s after SIGTERM")
    assert code == 0
    assert seconds < 35
