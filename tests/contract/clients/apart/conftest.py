"""For clients in an environment of their own: neither MIRL nor its other tests can be imported here."""

from __future__ import annotations

import os
from typing import Any

import pytest

SMALL = {"descriptions": 3, "keep": 2, "forks": 2, "description_tokens": 48}


@pytest.fixture(scope="session")
def url() -> str:
    """The API's base, `…/v1`."""
    return os.environ["MIRL_TEST_URL"]


@pytest.fixture
def messages() -> list[Any]:
    """A question about a picture."""
    image = {"type": "image_url", "image_url": {"url": os.environ["MIRL_TEST_IMAGE"]}}
    return [{"role": "user", "content": [image, {"type": "text", "text": "What is the sum of all digits?"}]}]


@pytest.fixture
def small() -> dict[str, Any]:
    """Knobs that keep tests short."""
    return dict(SMALL)
