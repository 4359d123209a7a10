"""Images that vLLM decodes itself: its own connector, with the operator's limits before it."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from mirl_core.config import Limits
from mirl_server.media.decoding import ImageBudget, decode_url
from tests.hostile.images import CORPUS, LIMITS, SECONDS
from tests.unit.server.harness import data_url


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> object:
    """What vLLM makes for a request, once images are checked; vLLM's own is back afterwards."""
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from mirl_server.vllm import media as vllm_media

    monkeypatch.setattr(MEDIA_CONNECTOR_REGISTRY, "name2class", dict(MEDIA_CONNECTOR_REGISTRY.name2class))
    vllm_media.check_images(FastAPI(), LIMITS)
    return MEDIA_CONNECTOR_REGISTRY.load("http", allowed_media_domains=["domain.invalid"])


def test_a_picture_is_as_vllm_expects(connector: object) -> None:
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
    assert seen == set()


def pictures() -> dict[str, str]:
    """Data URLs of pictures that decoders read differently."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((8, 4), 90)
    made: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "16-bit grey": (
            Image.linear_gradient("L").convert("I").point(lambda v: v * 200).convert("I;16"),
            "PNG",
            {},
        ),
        "transparent": (Image.new("RGBA", (4, 4), (255, 0, 0, 90)), "PNG", {}),
        "a transparent colour": (noise.convert("P"), "PNG", {"transparency": 3}),
        "grey with transparency": (Image.new("LA", (4, 4), (90, 100)), "PNG", {}),
        "turned": (noise, "JPEG", {"exif": exif}),
        "CMYK": (noise.convert("CMYK"), "JPEG", {}),
        "a frame": (noise, "GIF", {"save_all": True, "append_images": [noise.rotate(90)]}),
        "a profile": (noise.convert("RGB"), "PNG", {"icc_profile": bytes(2**20 + 1)}),
    }
    urls = {}
    for name, (image, format_, options) in made.items():
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        urls[name] = "data:image;base64," + base64.b64encode(buffer.getvalue()).decode()
    return urls


@pytest.mark.parametrize("name", pictures())
async def test_a_picture_is_the_same_as_through_the_gate(connector: object, name: str) -> None:
    url = pictures()[name]
    gated = decode_url(url, "", ImageBudget.of(LIMITS))
    for picture in (
        connector.fetch_image(url),  # type: ignore[attr-defined]
        await connector.fetch_image_async(url),  # type: ignore[attr-defined]
    ):
        assert (picture.media.mode, picture.media.size) == ("RGB", gated.size)
        assert picture.media.tobytes() == gated.tobytes()
        assert picture.original_bytes == base64.b64decode(url.partition(",")[2])


def test_files_of_the_operators_folder_too(connector: object, tmp_path: Path) -> None:
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    url = pictures()["16-bit grey"]
    (tmp_path / "a.png").write_bytes(base64.b64decode(url.partition(",")[2]))
    local = MEDIA_CONNECTOR_REGISTRY.load("http", allowed_local_media_path=str(tmp_path))
    picture = local.fetch_image(f"file://{tmp_path}/a.png")
    assert picture.media.tobytes() == decode_url(url, "", ImageBudget.of(LIMITS)).tobytes()


def test_the_operators_background_and_mode_stay(connector: object) -> None:
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    url = pictures()["transparent"]

    def fetched(**options: object) -> Any:
        return MEDIA_CONNECTOR_REGISTRY.load("http", media_io_kwargs={"image": options}).fetch_image(url)

    black = fetched(rgba_background_color=[0, 0, 0])
    assert black.media.getpixel((0, 0)) == (90, 0, 0)
    assert black.io_config != fetched().io_config
    assert fetched(image_mode=None).media.mode == "RGBA"


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
