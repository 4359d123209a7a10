"""A fake vLLM server: it keeps the requests that it receives, and answers what a test says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from mirl_core.engines.base import Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.remote.checks import ServedModel
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.server import Server
from mirl_core.types import Conversation

RENDER, GENERATE = "/v1/chat/completions/render", "/inference/v1/generate"
ABORT = "/inference/v1/abort_requests"
TEXT = Conversation(({"role": "user", "content": "How many?"},))
CONTEXT = RequestContext("id")
PICTURE = Image.effect_noise((4, 3), 50).convert("RGB")
NAME = hashlib.sha256(b"(4, 3)" + PICTURE.tobytes()).hexdigest()
SHOWN = Conversation(
    (
        {
            "role": "user",
            "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "How many?"}],
        },
    )
)
EXPANDED = {
    "token_ids": [1, 9, 7, 7, 9, 2],
    "features": {"mm_hashes": {"image": ["x"]}, "mm_placeholders": {"image": [{"offset": 1, "length": 4}]}},
}
RENDERED = {"token_ids": [1, 2, 3], "features": None}


@dataclass(frozen=True)
class FakeRequest:
    url: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    seconds: float
    """How long the answer is waited for."""


@dataclass
class FakeServers:
    """Answers by path; a list is answered item by item, a function is called with the request."""

    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[FakeRequest] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        content = request.content
        received = FakeRequest(
            url=f"{request.url.scheme}://{request.url.netloc.decode()}",
            path=request.url.path,
            query=dict(request.url.params),
            body=json.loads(content) if content else None,
            headers=dict(request.headers),
            seconds=request.extensions["timeout"]["read"],
        )
        self.requests.append(received)
        answer = self.answers.get(received.path, {} if received.path == "/health" else None)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if callable(answer):
            answer = answer(received)
            if isinstance(answer, Awaitable):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, json=answer)

    def bodies(self, path: str) -> list[Any]:
        return [request.body for request in self.requests if request.path == path]

    def hosts(self, path: str) -> list[str]:
        return [request.url for request in self.requests if request.path == path]


class Letters:
    """A tokenizer with a token a letter; capitals are special."""

    all_special_tokens = ("A", "B", "E")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        kept = (chr(token) for token in ids)
        return "".join(
            letter for letter in kept if not (skip_special_tokens and letter in self.all_special_tokens)
        )


def engine(
    fake: Callable[[httpx.Request], Any],
    *urls: str,
    banned: frozenset[int] = frozenset({7}),
    connections: int = 16,
    **kwargs: Any,
) -> RemoteEngine:
    """An engine on fake servers that have passed their checks."""
    servers = [
        Server(
            url,
            api_key="secret-key",
            connections=connections,
            timeout=5.0,
            transport=httpx.MockTransport(fake),
        )
        for url in urls or ("http://one:8000",)
    ]
    for server in servers:
        server.up = True
    return RemoteEngine(servers, ServedModel("the-model", "/models/it", 100), Letters(), banned, **kwargs)


def sampled(text: str, reason: str = "stop", versions: tuple[str, ...] = ("default",)) -> dict[str, Any]:
    """A server's answer that has sampled `text`, each token with log-probability −1."""
    content = [
        {
            "token_id": ord(letter),
            "logprob": -1.0,
            "rank": 1,
            "top_logprobs": [{"token_id": ord(letter), "logprob": -1.0}],
        }
        for letter in text
    ]
    choice = {
        "index": 0,
        "finish_reason": reason,
        "token_ids": [ord(letter) for letter in text],
        "logprobs": {"content": content},
        "weight_versions": [{"version": version, "start": 0, "end": 1} for version in versions],
    }
    return {"choices": [choice], "usage": {"prompt_tokens_details": None}, "prompt_logprobs": None}


def scored(ids: list[int], cached: int | None = None, likeliest: int | None = None) -> dict[str, Any]:
    """A server's answer to a scoring request: −0.1 for the second token, −0.2 for the third.

    `likeliest` has −0.05 at every position.
    """
    others = {} if likeliest is None else {str(likeliest): {"logprob": -0.05, "rank": 1}}
    positions = [
        None,
        *({str(token): {"logprob": -0.1 * at}} | others for at, token in enumerate(ids[1:], 1)),
    ]
    details = None if cached is None else {"cached_tokens": cached}
    return {**sampled("x"), "prompt_logprobs": positions, "usage": {"prompt_tokens_details": details}}


def refusal(
    status: int, message: str, kind: str = "BadRequestError", param: str | None = None
) -> httpx.Response:
    """A refusal in vLLM's words."""
    error = {"message": message, "type": kind, "param": param, "code": status}
    return httpx.Response(status, json={"error": error})


async def samples(
    remote: RemoteEngine, rendered: Rendered, n: int = 1, context: RequestContext = CONTEXT, **how: Any
) -> list[Sample]:
    drawn = [
        sample
        async for sample in remote.generate(rendered, (5,), n, Sampling(**{"max_tokens": 4, **how}), context)
    ]
    return sorted(drawn, key=lambda sample: sample.index)


def without_id(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "request_id"}


def good_server() -> FakeServers:
    """What every check likes."""
    model = {"id": "the-model", "root": "/models/it", "max_model_len": 100}
    adapter = {"id": "adapter", "root": "/models/lora", "parent": "the-model", "max_model_len": None}

    def answer(request: FakeRequest) -> Any:
        if "token_ids" not in request.body:
            return refusal(400, "token_ids: Field required")
        ids = request.body["token_ids"]
        if "prompt_logprobs" in request.body["sampling_params"]:
            return {
                **scored(ids),
                "prompt_logprobs": [None, *({str(token): {"logprob": -1.0}} for token in ids[1:])],
            }
        return sampled("ab") | {"usage": {"prompt_tokens_details": {"cached_tokens": 0}}}

    return FakeServers(
        {
            "/v1/models": {"data": [adapter, model]},
            "/tokenize": lambda request: {"tokens": [ord(letter) for letter in request.body["prompt"]]},
            RENDER: RENDERED,
            GENERATE: answer,
        }
    )
