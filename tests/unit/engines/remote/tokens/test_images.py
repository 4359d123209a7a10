"""The engine over HTTP: how images travel, how often, and how their places in a prompt are found."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from mirl_core.engines.base import RequestContext
from mirl_core.engines.remote.prompt import encoded
from mirl_core.errors import EngineError
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    EXPANDED,
    GENERATE,
    NAME,
    PICTURE,
    RENDER,
    SHOWN,
    FakeRequest,
    FakeServers,
    engine,
    refusal,
    sampled,
    samples,
    without_id,
)


async def test_images_go_losslessly_once_and_by_name_from_then_on() -> None:
    fake = FakeServers(
        {RENDER: EXPANDED, GENERATE: lambda _: {**sampled("ab"), "prompt_token_ids": [1, 9, 7, 7, 9, 2]}}
    )
    remote = engine(fake)
    tenant = RequestContext("id", cache_salt="salt", priority=3)
    rendered = await remote.render(SHOWN, tenant)
    await samples(remote, rendered, 2, tenant)
    await samples(remote, rendered, 1, tenant)
    (part, text) = fake.bodies(RENDER)[0]["messages"][0]["content"]
    url = part["image_url"]["url"]
    assert part == {"type": "image_url", "image_url": {"url": url}, "uuid": NAME}
    assert text == {"type": "text", "text": "How many?"}
    kind, data = url.split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == PICTURE.tobytes()
    first, *others = fake.bodies(GENERATE)
    shared = {"model": "the-model", "cache_salt": hashlib.sha256(b"salt").hexdigest(), "priority": 3}
    assert without_id(first) == {
        **shared,
        "token_ids": [1, 7, 2],
        "content_parts": [{"type": "image_url", "url": url, "uuid": NAME}],
        "sampling_params": {"max_tokens": 1, "temperature": 0.0, "detokenize": False},
        "return_token_ids": True,
    }
    assert len(others) == 3
    for body in others:
        assert body["token_ids"] == [1, 7, 2, 5]
        assert body["content_parts"] == [{"type": "image_url", "url": None, "uuid": NAME}]


async def test_an_image_that_the_server_forgot_is_sent_again() -> None:
    whole = {**sampled("ab"), "prompt_token_ids": EXPANDED["token_ids"]}
    fake = FakeServers({RENDER: EXPANDED, GENERATE: [whole, refusal(400, "Cache miss"), whole]})
    remote = engine(fake)
    (sample,) = await samples(remote, await remote.render(SHOWN, CONTEXT))
    assert sample.text == "ab"
    assert [body["content_parts"][0]["url"] is None for body in fake.bodies(GENERATE)] == [False, True, False]


async def test_the_placeholder_is_identified_by_what_the_server_makes_of_it() -> None:
    """A model whose template has the 9, which no setting names; with another the prompt would be another."""

    def answer(request: FakeRequest) -> Any:
        if request.body["token_ids"][1] == 7:
            return {**sampled("x"), "prompt_token_ids": [1, 9, 7, 7, 9, 7, 9, 2]}
        return {**sampled("x"), "prompt_token_ids": EXPANDED["token_ids"]}

    fake = FakeServers({RENDER: EXPANDED, GENERATE: answer})
    remote = engine(fake)
    rendered = await remote.render(SHOWN, CONTEXT)
    await samples(remote, rendered)
    *_, last = fake.bodies(GENERATE)
    assert last["token_ids"] == [1, 9, 2, 5]
    assert set(last["sampling_params"]["logit_bias"]) == {"7", "9"}
    fake = FakeServers({RENDER: EXPANDED, GENERATE: {**sampled("x"), "prompt_token_ids": [1]}})
    remote = engine(fake)
    with pytest.raises(EngineError, match="in process"):
        await samples(remote, await remote.render(SHOWN, CONTEXT))


async def test_images_are_preprocessed_once_when_the_placeholder_is_known() -> None:
    """From the second prompt on: the rendering is of stand-ins, and the true images are sent once."""
    stand_in = {
        "token_ids": [1, 9, 7, 9, 2],
        "features": {
            "mm_hashes": {"image": ["x"]},
            "mm_placeholders": {"image": [{"offset": 1, "length": 3}]},
        },
    }
    expanded = {
        "prompt_token_ids": EXPANDED["token_ids"],
        "mm_placeholders": {"image": [{"offset": 1, "length": 4}]},
    }
    answers = [EXPANDED, stand_in]
    fake = FakeServers({RENDER: lambda _: answers.pop(0), GENERATE: lambda _: {**sampled("ab"), **expanded}})
    remote = engine(fake)
    first = await remote.render(SHOWN, CONTEXT)
    await samples(remote, first)
    before = len(fake.bodies(GENERATE))
    second = await remote.render(SHOWN, CONTEXT)
    assert second.prompt_tokens == first.prompt_tokens == 6
    assert second.inputs.image_ranges == first.inputs.image_ranges == ((1, 4),)
    whole, small = (body["messages"][0]["content"][0] for body in fake.bodies(RENDER))
    assert whole["uuid"] == NAME
    assert small["uuid"] == "mirl-stand-in"
    image = Image.open(io.BytesIO(base64.b64decode(small["image_url"]["url"].split(",")[1])))
    assert image.size == (64, 64)
    await samples(remote, second, 2)
    sent, *named = fake.bodies(GENERATE)[before:]
    assert sent["token_ids"] == [1, 7, 2]
    assert sent["content_parts"] == [{"type": "image_url", "url": whole["image_url"]["url"], "uuid": NAME}]
    assert [body["content_parts"][0]["url"] for body in named] == [None, None]


@pytest.mark.parametrize(
    "answer",
    [
        {"prompt_token_ids": EXPANDED["token_ids"]},
        {"prompt_token_ids": [1, 9, 7, 7, 9, 3], "mm_placeholders": {"image": [{"offset": 1, "length": 4}]}},
        {"prompt_token_ids": [1, 2], "mm_placeholders": {}},
        refusal(400, "no"),
    ],
)
async def test_images_are_rendered_in_full_where_stand_ins_do_not_do(answer: Any) -> None:
    whole = {**sampled("ab"), "prompt_token_ids": EXPANDED["token_ids"]}
    fake = FakeServers({RENDER: EXPANDED, GENERATE: whole})
    remote = engine(fake)
    await samples(remote, await remote.render(SHOWN, CONTEXT))
    fake.answers[GENERATE] = [answer if isinstance(answer, httpx.Response) else {**sampled("a"), **answer}]
    rendered = await remote.render(SHOWN, CONTEXT)
    assert rendered.prompt_tokens == 6
    names = [body["messages"][0]["content"][0]["uuid"] for body in fake.bodies(RENDER)]
    assert names == [NAME, "mirl-stand-in", NAME]
    fake.answers[GENERATE] = whole
    await samples(remote, rendered)


def test_pictures_keep_their_pixels_and_nothing_else() -> None:
    grey = Image.effect_noise((5, 2), 50)
    grey.info["icc_profile"] = b"profile"
    picture = encoded(grey)
    image = Image.open(io.BytesIO(base64.b64decode(picture.url.split(",")[1])))
    assert (image.mode, image.info) == ("RGB", {})
    assert image.tobytes() == grey.convert("RGB").tobytes()
    assert encoded(PICTURE).name == NAME != encoded(PICTURE.resize((3, 4))).name
