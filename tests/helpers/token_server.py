"""A process that speaks vLLM's token routes and computes nothing: its answers follow from the tokens alone.

Run it with `python -m tests.helpers.token_server --port PORT`. A test that knows the tokens knows the answer
(`continuation`), whichever server gave it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MODEL = "the-model"
SECONDS = 0.02
"""How long an answer takes."""


def continuation(ids: Sequence[int], seed: int, count: int) -> list[int]:
    """Return what is sampled after a prompt: letters."""
    digest = hashlib.sha256(repr((list(ids), seed)).encode()).digest()
    return [97 + byte % 26 for byte in digest[:count]]


def logprob(token: int) -> float:
    """Return log p of a token, wherever it stands; nats."""
    return -0.01 * token


async def models(_: Request) -> JSONResponse:
    return JSONResponse({"data": [{"id": MODEL, "root": MODEL, "max_model_len": 4096}]})


async def version(_: Request) -> JSONResponse:
    return JSONResponse({"version": "0.32.0"})


async def empty(_: Request) -> JSONResponse:
    return JSONResponse({})


async def tokenize(request: Request) -> JSONResponse:
    return JSONResponse({"tokens": [ord(letter) for letter in (await request.json())["prompt"]]})


async def render(request: Request) -> JSONResponse:
    messages = (await request.json())["messages"]
    return JSONResponse({"token_ids": [ord(letter) for letter in messages[-1]["content"]], "features": None})


async def generate(request: Request) -> JSONResponse:
    body = await request.json()
    ids, params = body["token_ids"], body["sampling_params"]
    await asyncio.sleep(SECONDS)
    tokens = continuation(ids, params.get("seed", 0), params["max_tokens"])
    content = [
        {"token_id": token, "logprob": logprob(token), "top_logprobs": [{"token_id": token, "logprob": -1.0}]}
        for token in tokens
    ]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "token_ids": tokens,
        "logprobs": {"content": content},
        "weight_versions": [],
    }
    answer: dict[str, Any] = {"choices": [choice], "usage": {}, "prompt_logprobs": None}
    if params.get("prompt_logprobs") is not None:
        answer["prompt_logprobs"] = [
            None, *({str(token): {"logprob": logprob(token)}} for token in ids[1:])
        ]  # fmt: skip
    return JSONResponse(answer)


def main() -> None:
    """Serve until the process is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    routes = [
        Route("/health", empty),
        Route("/version", version),
        Route("/v1/models", models),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/v1/chat/completions/render", render, methods=["POST"]),
        Route("/inference/v1/generate", generate, methods=["POST"]),
        Route("/inference/v1/abort_requests", empty, methods=["POST"]),
    ]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", parser.parse_args().port))
    config = uvicorn.Config(Starlette(routes=routes), log_level="warning", access_log=False)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
