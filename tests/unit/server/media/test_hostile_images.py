"""A corpus of hostile images: each ends soon, as a 400 or 413 that names its part, and does no harm."""

from __future__ import annotations

import base64
import time

import pytest
from PIL import Image

from mirl_core.config import Limits
from mirl_core.errors import ImageError, RequestTooLargeError
from mirl_server.media.decoding import ImageBudget, decode_url
from tests.hostile.images import CORPUS, LIMITS, NOISE, SECONDS, encoded, many_scans
from tests.unit.server.harness import Build, question


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 150


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CORPUS)
def test_every_hostile_image_is_refused_soon(name: str) -> None:
    before = time.process_time()
    with pytest.raises((ImageError, RequestTooLargeError)) as caught:
        decode_url(CORPUS[name], "messages[0].content[1]", ImageBudget.of(LIMITS))
    assert time.process_time() - before < SECONDS
    assert caught.value.param == "messages[0].content[1]"
    assert len(caught.value.message) < 300


@pytest.mark.filterwarnings("default")
async def test_each_is_a_4xx_and_a_good_request_works_after_it(build: Build) -> None:
    harness = build(limits=LIMITS)
    async with harness.client() as client:
        for name, url in CORPUS.items():
            if "surrogate" in name:  # no JSON in UTF-8 has one
                continue
            message = question()
            message["content"][0]["image_url"]["url"] = url
            body = {"model": "m", "messages": [message], "mirl": {"descriptions": 1, "keep": 1}}
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code in (400, 413), name
            assert response.json()["error"]["param"] == "messages[0].content[0]", name
    assert (await harness.ask()).status_code == 200


def test_what_people_send_is_none_of_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    large = Image.effect_noise((1800, 1200), 60).convert("RGB")
    good = [
        encoded("JPEG", large, progressive=True, exif=exif, icc_profile=bytes(300_000)),
        encoded("JPEG", large.convert("CMYK")),
        encoded("PNG", large.convert("RGBA"), icc_profile=bytes(3000)),
        encoded("GIF", NOISE, save_all=True, append_images=[NOISE.rotate(90)] * 30, comment=b"c" * 2000),
        encoded("WEBP", NOISE, save_all=True, append_images=[NOISE.rotate(90)] * 9),
        encoded("PNG", NOISE, save_all=True, append_images=[NOISE.rotate(90)] * 9),
        encoded("BMP", large),
        many_scans(2),
        # A phone's: a depth map behind the picture, a preview before it.
        encoded("JPEG", large) + encoded("JPEG", NOISE),
    ]
    for raw in good:
        url = "data:image/jpeg;base64," + base64.b64encode(raw).decode()
        assert decode_url(url, "x", ImageBudget.of(Limits())).mode == "RGB"
