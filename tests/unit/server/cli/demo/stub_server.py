"""A server of two names that answers by rule, behind a client of the openai package."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai import OpenAI

from tests.unit.clients.cli.evidence_cases import GATED, STEERED

EVIDENCE = {"steered": STEERED, "gate": GATED, "waves": GATED}


def client_of(bodies: list[dict[str, Any]]) -> OpenAI:
    """Return a client of a server that answers 7 but in the first sample, and keeps each request's body."""

    def respond(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        bodies.append(body)
        is_gated = not body["model"].endswith(":direct")
        texts = ["8" if n else "7" for n in range(body.get("n", 1))]
        choices = [
            {"index": n, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for n, text in enumerate(texts)
        ]
        answer: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            "usage": {"prompt_tokens": 1, "completion_tokens": 10 * len(texts), "total_tokens": 9},
        }
        if is_gated:
            answer["mirl"] = EVIDENCE[body["mirl"]["preset"]].model_dump()
        return httpx.Response(200, json=answer)

    transport = httpx.MockTransport(respond)
    return OpenAI(
        base_url="http://demo/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(transport=transport),
    )
