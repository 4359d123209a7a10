"""The backend's other endpoints under admission: what they count for, who waits, and their salt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mirl_server.access.keys import digest
from mirl_server.handling.admission import Admission
from mirl_server.handling.context import cache_salt
from mirl_server.handling.cost import plain_cost
from mirl_server.middleware.stack import install_middleware
from mirl_server.settings.server import ServerSettings
from tests.helpers.waiting import until
from tests.unit.server.handling.admission.admission_cases import admitted, idle
from tests.unit.server.harness import Build, Harness

KEY, OTHER = "0123456789abcdef-1", "0123456789abcdef-2"
PATHS = ("/v1/completions", "/v1/audio/transcriptions")


class Backend:
    """A server's own routes, and what came to them."""

    def __init__(self, build: Build, **limits: Any) -> None:
        self.harness: Harness = build()
        self.admission: Admission = admitted(self.harness, **limits)
        self.came: list[bytes] = []
        self.go = asyncio.Event()
        app: FastAPI = self.harness.app
        settings = ServerSettings.load(access={"keys": f"one: {KEY}\ntwo: {OTHER}"})
        install_middleware(app, settings, generating=PATHS)
        app.post("/v1/completions")(self.complete)
        app.post("/v1/audio/transcriptions")(self.transcribe)
        app.post("/tokenize")(self.transcribe)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.came.append(await request.body())
        await self.go.wait()
        if not body.get("stream"):
            return JSONResponse({"choices": []})

        async def chunks() -> AsyncIterator[str]:
            for _ in range(3):
                yield "data: {}\n\n"
                await asyncio.sleep(0.02)

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def transcribe(self, request: Request) -> Response:
        self.came.append(await request.body())
        return JSONResponse({"running": self.admission.running("plain")})

    async def post(self, path: str = PATHS[0], key: str = KEY, **how: Any) -> httpx.Response:
        async with self.harness.client() as client:
            return await client.post(path, headers={"x-api-key": key}, **how)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "hi", "max_tokens": 5}, (1, 5)),
        ({"prompt": [1, 2, 3], "max_tokens": 5, "n": 3}, (3, 15)),
        ({"prompt": ["a", "b"], "n": 3}, (6, 600)),
        ({"prompt": "hi", "n": "8", "max_tokens": 5.0}, (8, 40)),
        ({"prompt": "hi", "n": "9" * 9999, "max_tokens": float("inf")}, (1, 100)),
        ({"prompt": [[1, 2], [3]], "max_tokens": 10**9}, (2, 200)),
        ({"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 7}, (1, 7)),
        ({"messages": [[{"role": "user"}], [{"role": "user"}]], "max_tokens": 7}, (2, 14)),
        ({"input": "hi", "max_output_tokens": 9}, (1, 9)),
        ({"token_ids": [1, 2], "sampling_params": {"n": 4, "max_tokens": 2}}, (4, 8)),
        ({"query": "q", "items": ["a", "b", "c"]}, (3, 300)),
        ({"state": "s", "questions": {"a": {}, "b": {}}}, (2, 200)),
        ({"n": "x", "max_tokens": {}, "prompt": [], "sampling_params": 3}, (1, 100)),
        ({"n": -1, "max_tokens": True}, (1, 1)),
    ],
)
def test_what_a_plain_request_counts_for(body: dict[str, Any], expected: tuple[int, int]) -> None:
    assert plain_cost(body, 100) == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_they_are_admitted_and_hold_their_turn(build: Build, stream: bool) -> None:
    backend = Backend(build, max_running_sequences=8, plain_share=0.5, max_queue=1)
    body = {"prompt": ["a", "b"], "n": 2, "stream": stream, "max_tokens": 10}
    tasks = [asyncio.create_task(backend.post(json=body)) for _ in range(3)]
    await until(lambda: len(backend.came) == 2)
    assert backend.admission.running("plain") == 8
    assert backend.admission.queued("plain") == 1
    refused = await backend.post(json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert backend.harness.metric("mirl_refusals_total", reason="overloaded") == 1
    backend.go.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * 3
    assert idle(backend.admission)


async def test_who_leaves_the_line_is_gone(build: Build) -> None:
    backend = Backend(build, max_running_sequences=2)
    tasks = [asyncio.create_task(backend.post(json={"prompt": "a"})) for _ in range(4)]
    await until(lambda: backend.admission.queued("plain") == 2)
    tasks[3].cancel()
    await until(lambda: backend.admission.queued("plain") == 1)
    backend.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(backend.came) == 3
    assert idle(backend.admission)


async def test_the_tenants_salt_is_in_the_body(build: Build) -> None:
    backend = Backend(build)
    backend.go.set()
    sent = {"prompt": "é \u2028", "n": 1, "seed": 2**60, "temperature": 0.1}
    for key in (KEY, OTHER):
        assert (await backend.post(json=sent, key=key)).status_code == 200
    assert (await backend.post(json={**sent, "cache_salt": "mine"})).status_code == 200
    came = [json.loads(raw) for raw in backend.came]
    salts = [content.pop("cache_salt") for content in came]
    assert came == [sent] * 3
    tenant = digest(KEY.encode()).hex()
    assert salts[0] == cache_salt(tenant, None)
    assert salts[2] == cache_salt(tenant, "mine")
    assert len({*salts, "mine"}) == 4
    odd = {**sent, "cache_salt": 7}  # the backend's to refuse
    await backend.post(json=odd)
    assert json.loads(backend.came[-1]) == odd


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"n": NaN}', b"", b"[" * 100_000])
async def test_what_is_no_json_object_is_refused_before_it_waits(build: Build, content: bytes) -> None:
    backend = Backend(build)
    headers = {"x-api-key": KEY, "content-type": "application/json; charset=utf-8"}
    async with backend.harness.client() as client:
        answer = await client.post(PATHS[0], headers=headers, content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not backend.came
    assert idle(backend.admission)


async def test_forms_pass_untouched_and_count_for_one(build: Build) -> None:
    backend = Backend(build)
    answer = await backend.post(PATHS[1], files={"file": b"RIFF"}, data={"model": "m"})
    assert answer.json() == {"running": 1}
    assert b"RIFF" in backend.came[0]
    assert (await backend.post("/tokenize", json={"prompt": "a"})).json() == {"running": 0}
    assert idle(backend.admission)


async def test_draining_is_a_503(build: Build) -> None:
    backend = Backend(lambda: build(draining=True))
    refused = await backend.post(json={"prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert not backend.came
