"""Images by URL through the routes: gated, scored, and handed to the backend as the same bytes."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest

from mirl_core.config import Limits
from mirl_server.media.images import Images
from tests.unit.server.apis.api_cases import leaving
from tests.unit.server.harness import Build, Harness, data_url, png, question
from tests.unit.server.media.origin import HOST, Write, answer, origin, web

URL = f"http://{HOST}/a"
DIRECT: dict[str, Any] = {"model": "m:direct", "mirl": None}


def refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code in (400, 413)
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize("fields", [{}, DIRECT])
async def test_off_by_default(server: Harness, fields: dict[str, Any]) -> None:
    error = refusal(await server.ask(messages=[question(url=URL)], **fields))
    assert "--allow-image-host" in error["message"]
    assert (error["param"], error["code"]) == ("messages[0].content[0]", "invalid_image")
    assert server.handed == []


async def test_a_gated_request_fetches_each_image_once(build: Build) -> None:
    async with origin(a=answer(png("red")), b=answer(png("blue"))) as served:
        harness = build(images=Images(Limits(), web(served).fetcher))
        turns = [question(url=URL), {"role": "assistant", "content": "7"}, question(url=f"http://{HOST}/b")]
        turns[2]["content"].append(turns[0]["content"][0])
        turns[2]["content"].append({"type": "image_url", "image_url": {"url": data_url("green")}})
        response = await harness.ask(messages=turns)
        assert response.status_code == 200, response.text
        assert sorted(served.paths()) == ["/a", "/b"]


async def test_scores_take_urls(build: Build) -> None:
    async with origin(a=answer(png())) as served:
        harness = build(images=Images(Limits(), web(served).fetcher))
        async with harness.client() as client:
            body = {"messages": [question(url=URL)], "descriptions": ["a red seven"]}
            response = await client.post("/v1/mirl/score", json=body)
        assert response.status_code == 200, response.text
        assert served.paths() == ["/a"]


def expected(raw: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


async def test_the_backend_gets_the_bytes_and_fetches_nothing(build: Build) -> None:
    odd = png() + b"kept to the last byte"
    async with origin(a=answer(odd, "image/jpeg")) as served:
        harness = build(images=Images(Limits(), web(served).fetcher))
        kept = data_url("blue")
        parts: list[Any] = [
            {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
            {"type": "image_url", "image_url": URL},
            {"type": "input_image", "image_url": URL.replace("http", "HTTP")},
            {"image_url": {"url": URL}, "uuid": "x"},
            {"type": "image_url", "image_url": {"url": kept}},
            {"type": "image_url", "image_url": None, "uuid": "y"},
            {"type": "text", "text": URL},
            {"type": "image_url", "image_url": {"url": ["http://odd"]}},
            "http://text",
        ]
        turns = [{"role": "user", "content": parts}, {"role": "user", "content": URL}, 3, {"content": 4}]
        assert (await harness.ask(messages=turns, **DIRECT)).status_code == 200
        # HTTP:// is another text, so another fetch.
        assert served.paths() == ["/a", "/a"]
        handed = harness.handed[0]["messages"][0]["content"]
        assert handed[0] == {"type": "image_url", "image_url": {"url": expected(odd), "detail": "low"}}
        assert (
            handed[1]["image_url"] == handed[2]["image_url"] == handed[3]["image_url"]["url"] == expected(odd)
        )
        assert handed[4:] == parts[4:]
        assert harness.handed[0]["messages"][1:] == turns[1:]


async def test_a_follow_up_without_a_new_image_is_fetched_here_too(build: Build) -> None:
    async with origin(a=answer(png())) as served:
        harness = build(images=Images(Limits(), web(served).fetcher))
        turns = [
            question(url=URL),
            {"role": "assistant", "content": "7"},
            {"role": "user", "content": "sure?"},
        ]
        assert (await harness.ask(messages=turns)).status_code == 200
        assert harness.handed[0]["messages"][0]["content"][0]["image_url"]["url"] == expected(png())


@pytest.mark.parametrize(
    ("origin_answer", "limits", "status"),
    [
        (answer(b"\x89PNG\r\n\x1a\n and no more"), {}, 400),
        (answer(b"<svg>and so on and on</svg>"), {}, 400),
        (answer(png(size=(30, 30))), {"max_image_pixels": 899}, 413),
        (answer(png(size=(30, 30))), {"max_total_image_pixels": 899}, 413),
        (answer(png()), {"max_image_bytes": 20}, 413),
    ],
)
@pytest.mark.parametrize("fields", [{}, DIRECT])
async def test_what_was_fetched_is_held_against_the_limits(
    build: Build, origin_answer: bytes | Write, limits: dict[str, int], status: int, fields: dict[str, Any]
) -> None:
    async with origin(a=origin_answer) as served:
        harness = build(images=Images(Limits(**limits), web(served).fetcher))
        response = await harness.ask(messages=[question(url=URL)], **fields)
        assert response.status_code == status
        assert refusal(response)["param"] == "messages[0].content[0]"
        assert harness.handed == []


async def test_a_client_that_leaves_ends_the_fetch(build: Build) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with origin(a=silent) as served:
        harness = build(images=Images(Limits(), web(served, timeout=60).fetcher))
        async with leaving(harness, "/v1/chat/completions", {"messages": [question(url=URL)]}) as sent:
            await served.received.wait()
        async with asyncio.timeout(5):
            await served.quiet.wait()
        assert sent[0]["status"] == 499
        assert harness.engine.calls == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"min_pixels": 10**9}, 413),
        ({"size": {"shortest_edge": 56 * 56, "longest_edge": 10**10}}, 413),
        ({"images_kwargs": {"size": {"height": 20_000, "width": 20_000}}}, 413),
        ({"size": [{"height": 1e300, "width": 1e300}]}, 413),
        ({"min_pixels": 56 * 56, "max_pixels": 12_845_056, "do_resize": True}, 200),
        ({"size": {"height": 448, "width": 448}, "fps": 2.0}, 200),
        ("many", 200),
        (None, 200),
    ],
)
async def test_no_picture_is_blown_up_over_the_limit(build: Build, arguments: object, status: int) -> None:
    harness = build()
    response = await harness.ask(model="m:direct", mirl=None, mm_processor_kwargs=arguments)
    assert response.status_code == status
    assert len(harness.handed) == (status == 200)


@pytest.mark.parametrize("detail", ["low", "high", "auto"])
async def test_a_gated_request_takes_a_detail_and_refuses_the_processors_arguments(
    build: Build, detail: str
) -> None:
    harness = build()
    part = {"type": "image_url", "image_url": {"url": data_url("blue"), "detail": detail}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "How many?"}]}]
    assert (await harness.ask(messages=messages, mm_processor_kwargs={})).status_code == 200
    refused = await harness.ask(messages=messages, mm_processor_kwargs={"max_pixels": 100})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "mm_processor_kwargs")
    assert "smaller picture" in error["message"]
    assert not harness.handed
