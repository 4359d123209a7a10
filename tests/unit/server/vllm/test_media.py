"""Images that vLLM decodes itself: its own connector, with the operator's limits before it."""

from __future__ import annotations

import asyncio
import base64
import io
import time

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from mirl_core.config import Limits
from tests.hostile.images import CORPUS, LIMITS, SECONDS
from tests.unit.server.harness import data_url

# vLLM loads a picture a second time where its end is missing, and Pillow then gives what it has.
WHAT_IS_LEFT = {
    "PNG with a chunk beyond its end", "JPEG without tables", "GIF of a code size that is none",
}  # fmt: skip


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> object:
    """What vLLM makes for a request, once images are checked; vLLM's own is back afterwards."""
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from mirl_server.vllm import media as vllm_media

    monkeypatch.setattr(MEDIA_CONNECTOR_REGISTRY, "name2class", dict(MEDIA_CONNECTOR_REGISTRY.name2class))
    vllm_media.check_images(FastAPI(), LIMITS)
    return MEDIA_CONNECTOR_REGISTRY.load("http", allowed_media_domains=["domain.invalid"])


def test_a_picture_is_vllms_own(connector: object) -> None:
    picture = connector.fetch_image(data_url("red", (5, 4)))  # type: ignore[attr-defined]
    assert (picture.media.size, picture.media.mode) == ((5, 4), "RGB")


@pytest.mark.filterwarnings("default")
async def test_hostile_images_are_its_400s_and_soon(connector: object) -> None:
    from vllm.exceptions import VLLMClientError

    seen = set()
    for name, url in CORPUS.items():
        before = time.process_time()
        try:
            await connector.fetch_image_async(url)  # type: ignore[attr-defined]
        except (ValueError, VLLMClientError):  # what vLLM answers with a 400
            pass
        else:
            seen.add(name)
        assert time.process_time() - before < SECONDS, name
    assert seen == WHAT_IS_LEFT


def test_formats_that_nobody_sends_are_refused(connector: object) -> None:
    from vllm.exceptions import VLLMValidationError

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "TIFF")
    url = "data:image/tiff;base64," + base64.b64encode(buffer.getvalue()).decode()
    with pytest.raises(VLLMValidationError, match="send PNG"):
        connector.fetch_image(url)  # type: ignore[attr-defined]


def test_the_limits_are_the_operators(connector: object) -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from mirl_server.vllm import media as vllm_media

    vllm_media.check_images(FastAPI(), Limits(max_image_pixels=15))
    strict = MEDIA_CONNECTOR_REGISTRY.load("http")
    assert strict.fetch_image(data_url("red", (5, 3))).media.size == (5, 3)
    with pytest.raises(VLLMValidationError, match="pixels"):
        strict.fetch_image(data_url("red", (4, 4)))


async def test_all_images_of_a_request_together_have_limits(connector: object) -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from mirl_server.vllm import media as vllm_media

    app = FastAPI()
    vllm_media.check_images(app, Limits(max_total_image_pixels=60))

    @app.get("/")
    async def look() -> list[str]:
        # vLLM has a connector for each message, and loads all at the same time.
        loading = (
            MEDIA_CONNECTOR_REGISTRY.load("http").fetch_image_async(data_url("red", (5, 4))) for _ in range(5)
        )
        ends = await asyncio.gather(*loading, return_exceptions=True)
        assert all(isinstance(end, VLLMValidationError) for end in ends if isinstance(end, BaseException))
        return [type(end).__name__ for end in ends]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for _ in range(2):  # each request has its own
            seen = (await client.get("/")).json()
            assert seen.count("VLLMValidationError") == 2


def test_other_media_are_left_to_vllm(connector: object) -> None:
    # vLLM's own error: it never came to a look at pictures.
    with pytest.raises(ValueError, match="separator"):
        connector.fetch_audio("data:audio/wav")  # type: ignore[attr-defined]
