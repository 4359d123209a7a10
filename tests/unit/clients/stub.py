"""A server of recorded shapes, behind the client's own transport."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from mirl_client import AsyncMirl, Evidence, Mirl
from tests.unit.clients.cli.evidence_cases import GATED, STEERED

USAGE = {"prompt_tokens": 70, "completion_tokens": 212, "total_tokens": 282}


@dataclass
class Stub:
    """Answers by rule, and keeps the requests' paths and bodies."""

    requests: list[tuple[str, Any]] = field(default_factory=list)
    failure: httpx.Response | None = None
    """The answer to every request but the list of models; None: the usual ones."""
    broken_stream: bool = False
    """Whether a stream ends with an error after its first event."""

    def client(self, base_url: str | None = None, *how: Any, **options: Any) -> Mirl:
        http = httpx.Client(transport=httpx.MockTransport(self.respond))
        return Mirl(base_url or "http://stub", *how, max_retries=0, http_client=http, **options)

    def async_client(self, base_url: str | None = None, *how: Any, **options: Any) -> AsyncMirl:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.respond))
        return AsyncMirl(base_url or "http://stub", *how, max_retries=0, http_client=http, **options)

    def respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else None
        self.requests.append((path, body))
        if path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [card("toy"), card("toy:direct")]})
        if self.failure is not None:
            return self.failure
        if path == "/tokenize":
            pieces = re.findall(r" ?\w+|[^\w\s]", body["prompt"])
            return httpx.Response(200, json={"token_strs": [piece.replace(" ", "Ġ") for piece in pieces]})
        if path == "/v1/mirl/score":
            return httpx.Response(200, json=scores(body))
        if path == "/v1/mirl/describe":
            data = [each.model_dump(exclude_none=False) for each in GATED.descriptions]
            usage = USAGE | {"scored_tokens": 18}
            fields = {"model": "toy", "mi_weight": 0.5, "data": data, "stages": [], "usage": usage}
            return httpx.Response(200, json=fields)
        assert path == "/v1/chat/completions", path
        if not body.get("stream"):
            return httpx.Response(200, json=completion(body))
        lines = stream(body, self.broken_stream)
        text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


def card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1, "owned_by": "mirl"}


def evidence_for(body: dict[str, Any]) -> Evidence:
    return STEERED if body.get("mirl", {}).get("preset") == "steered" else GATED


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """A gated answer is 24; the plain model says 25, but 24 in its first sample of several."""
    is_plain = body["model"].endswith(":direct") or isinstance(body["messages"][-1]["content"], str)
    count = body.get("n", 1)
    texts = [("24" if count > 1 and not n else "25") if is_plain else "24" for n in range(count)]
    choices = [
        {"index": n, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        for n, text in enumerate(texts)
    ]
    fields = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
    fields |= {"choices": choices, "usage": {**USAGE, "completion_tokens": 40 * count}}
    if is_plain:
        return fields
    choices[0]["message"]["reasoning"] = "limes 6, apples 18\n\n6 + 18 = 24"  # type: ignore[index]
    return fields | {"mirl": evidence_for(body).model_dump()}


def stream(body: dict[str, Any], broken: bool) -> Iterator[dict[str, Any]]:
    details = evidence_for(body)

    def chunk(delta: dict[str, Any], stage: Any = None, finish: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        fields = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "toy"}
        fields["choices"] = choices  # type: ignore[assignment]
        return fields if stage is None else fields | {"mirl": stage}

    budget = {"descriptions": 5, "keep": 3, "forks": 2}
    yield chunk(
        {"role": "assistant", "content": ""}, {"event": "started", "prompt_tokens": 70, "budget": budget}
    )
    if broken:
        yield {"error": {"message": "the engine has died", "type": "server_error", "code": "engine_dead"}}
        return
    descriptions = [each.model_dump() for each in details.descriptions]
    for each in descriptions:
        yield chunk({}, {"event": "described", "description": each})
    if details is GATED:
        yield chunk({}, {"event": "gated", "descriptions": descriptions, "mi_weight": 0.5})
    else:
        yield chunk({}, {"event": "branched", "descriptions": 0, "chains": 3})
    yield chunk({}, {"event": "an event of a newer server"})
    chains = [each.model_dump() for each in details.chains]
    ended = [each for each in chains if each["finish_reason"] == "stop"]
    for each in ended:
        yield chunk({}, {"event": "chain", "chain": each})
    vote, representative = details.vote, details.representative.model_dump()
    assert vote is not None
    outstanding = len(chains) - len(ended)
    decided = {"vote": vote.model_dump(), "representative": representative, "outstanding": outstanding}
    yield chunk({}, {"event": "decided", **decided})
    for each in chains:
        if each not in ended:
            yield chunk({}, {"event": "chain", "chain": each})
    yield chunk({"reasoning": "limes 6, apples 18\n\n6 + 18 = 24"})
    yield chunk({"content": "24"})
    yield chunk({}, {"event": "finished", **details.model_dump()}, "stop")
    yield {**chunk({}), "choices": [], "usage": USAGE}


def scores(body: dict[str, Any]) -> dict[str, Any]:
    """Each word has one nat, but the first has -0.5."""
    data = []
    for index, text in enumerate(body["descriptions"]):
        words = text.split()
        per_token = [-0.5, *[1.0] * (len(words) - 1)]
        mi = sum(per_token)
        score = {"index": index, "text": text, "tokens": len(words), "logprob": -1.0, "marginal": -1.0 - mi,
                 "mi": mi, "mi_per_token": mi / len(words), "token_mi": per_token,
                 "token_texts": [words[0], *(f" {word}" for word in words[1:])]}  # fmt: skip
        data.append(score)
    usage = {"prompt_tokens": 70, "scored_tokens": 8, "completion_tokens": 0}
    return {"object": "mirl.score", "model": body["model"], "mi_weight": 1.0, "data": data, "usage": usage}
