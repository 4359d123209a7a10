"""The images, built once for all tests of containers."""

from __future__ import annotations

import pytest

from tests.deploy.docker.containers import Image, build_image


@pytest.fixture(scope="package")
def gateway_image() -> Image:
    """Return the gateway's image."""
    return build_image("gateway")


@pytest.fixture(scope="package")
def cpu_image(real_vllm: None) -> Image:
    """Return the image with vLLM and the bundled models."""
    return build_image("cpu")
