"""The media of plain requests, checked before an engine sees them, wherever a body holds them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.server.gateway.gateway_cases import NAME, FakeVLLM, gateway_before
from tests.unit.server.harness import data_url

CHAT = "/v1/chat/completions"
TEXT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
PART = {"type": "image_url", "image_url": {"url": "{url}"}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "{data}"}}
DIRECT = f"{NAME}:direct"


def said(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": DIRECT, "messages": said(PART)}),
        ("/v1/responses", {"model": DIRECT, "input": said({"type": "input_image", "image_url": "{url}"})}),
        ("/v1/messages", {"model": DIRECT, "max_tokens": 4, "messages": said(SOURCE)}),
        ("/v1/chat/completions/batch", {"model": NAME, "messages": [said(PART)]}),
        ("/v1/embeddings", {"model": NAME, "messages": said(PART)}),
        ("/v2/embed", {"model": NAME, "images": ["{url}"]}),
        ("/v2/embed", {"model": NAME, "inputs": [{"content": [PART]}]}),
        ("/score", {"model": NAME, "data_1": {"content": [PART]}, "data_2": "a"}),
        ("/rerank", {"model": NAME, "query": "q", "documents": {"content": [{"image_url": "{url}"}]}}),
        ("/tokenize", {"model": NAME, "messages": said(PART)}),
    ],
    ids=str,
)
async def test_images_are_checked_before_they_are_passed_on(path: str, body: dict[str, Any]) -> None:
    def filled(url: str) -> dict[str, Any]:
        text = json.dumps(body).replace("{url}", url).replace("{data}", url.partition(",")[2])
        filled: dict[str, Any] = json.loads(text)
        return filled

    server = FakeVLLM()
    async with gateway_before(server, limits={"max_image_pixels": 100}) as behind:
        good = await behind.post(path, filled(data_url()))
        assert good.status_code == 200, good.text
        assert len(server.received) == 1
        bad = {"too large": data_url(size=(30, 30)), "none": "data:image/png;base64,QUFBQQ=="}
        if "{url}" in json.dumps(body):
            bad |= {"remote": "http://127.0.0.1:1/a.png", "file": "file:///etc/passwd"}
        for kind, url in bad.items():
            answer = await behind.post(path, filled(url))
            assert answer.status_code == (413 if kind == "too large" else 400), (kind, answer.text)
            assert "/etc/passwd" not in answer.text
        assert len(server.received) == 1


@pytest.mark.parametrize("kind", ["audio_url", "video_url"])
async def test_other_media_are_not_fetched_by_the_engine(kind: str) -> None:
    server = FakeVLLM()
    async with gateway_before(server, images={"allow_hosts": ["*"]}) as behind:
        part = {"type": kind, kind: {"url": "http://169.254.169.254/x"}}
        answer = await behind.post(CHAT, {"model": NAME, "messages": [{"role": "user", "content": [part]}]})
        assert answer.status_code == 400
        assert not server.received


async def test_urls_that_are_the_clients_own_data_stay() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {
        "properties": {"image_url": {"type": "string", "url": "http://a/b"}}}}}  # fmt: skip
    async with gateway_before(FakeVLLM()) as behind:
        answer = await behind.post(CHAT, {**TEXT, "tools": [tool], "metadata": {"image_url": "http://a/b"}})
        assert answer.status_code == 200
        assert behind.servers[0].received[0].json["tools"] == [tool]
