"""The engine over HTTP: which error a refusal, a failure and a lost answer become, and whom it blames."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mirl_core.errors import (
    ContextLengthError,
    EngineError,
    MIRLError,
    ModelNotFoundError,
    RequestError,
    RequestTooLargeError,
    ServerError,
)
from mirl_core.types import Conversation
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    FakeServers,
    engine,
    refusal,
    samples,
)


@pytest.mark.parametrize(
    ("answer", "kind", "param", "says"),
    [
        (refusal(400, "top_p is 7", param="top_p"), RequestError, "top_p", "top_p is 7"),
        (refusal(422, "no"), RequestError, None, "no"),
        (refusal(400, "maximum context length is 9"), ContextLengthError, None, "length is 9"),
        (
            refusal(404, "no such model", "NotFoundError", "model"),
            ModelNotFoundError,
            "model",
            "no such model",
        ),
        (refusal(413, "too large"), RequestTooLargeError, None, "too large"),
        (
            httpx.Response(401, json={"error": "no such model"}),
            ServerError,
            None,
            "status 401: no such model",
        ),
        (
            httpx.Response(404, json={"detail": "Not Found"}),
            ServerError,
            None,
            f"http://one:8000{GENERATE} does not exist",
        ),
        (refusal(429, "later"), ServerError, None, "status 429: later"),
        (refusal(500, "Internal", "InternalServerError"), ServerError, None, "status 500: Internal"),
        (
            httpx.Response(502, text="<html>bad gateway</html>"),
            ServerError,
            None,
            "502: <html>bad gateway</html>",
        ),
        (httpx.ReadTimeout("slow"), ServerError, None, f"did not answer {GENERATE} in time"),
        (
            httpx.UnsupportedProtocol("odd"),
            EngineError,
            None,
            "http://one:8000 is possible: UnsupportedProtocol",
        ),
    ],
)
async def test_refusals(answer: Any, kind: type[MIRLError], param: str | None, says: str) -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: answer})
    remote = engine(fake)
    with pytest.raises(MIRLError) as caught:
        await samples(remote, await remote.render(TEXT, CONTEXT))
    assert type(caught.value) is kind
    assert caught.value.param == param
    assert says in caught.value.message
    assert len(fake.bodies(GENERATE)) == 1
    if isinstance(caught.value, ServerError):
        answered = answer.status_code if isinstance(answer, httpx.Response) else None
        assert caught.value.status == answered


async def test_a_conversation_is_blamed_for_what_the_server_says_of_it() -> None:
    remote = engine(FakeServers({RENDER: refusal(400, "too long", param="input_tokens")}))
    with pytest.raises(RequestError, match="too long") as caught:
        await remote.render(TEXT, CONTEXT)
    assert caught.value.param == "messages"
    remote = engine(FakeServers({RENDER: {"token_ids": [1] * 100, "features": None}}))
    with pytest.raises(RequestError) as caught:
        await remote.render(TEXT, CONTEXT)
    assert caught.value.param == "messages"
    with pytest.raises(RequestError) as caught:
        await remote.render(Conversation(({"role": "user", "content": [{"type": "image_url"}]},)), CONTEXT)
    assert caught.value.param == "messages"


async def test_what_json_cannot_say_is_refused() -> None:
    remote = engine(FakeServers({RENDER: RENDERED}))
    with pytest.raises(RequestError):
        await samples(remote, await remote.render(TEXT, CONTEXT), temperature=float("nan"))
