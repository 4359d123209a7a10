"""POST /v1/mirl/describe: the first half of a gated answer: descriptions with their MI, kept or not.

The descriptions are those that a chat completion of the same fields would go on from.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from mirl_core.pipeline.events import Described, FellBack, Gated, Started
from mirl_core.types import Description
from mirl_server.apis.chat.route import options_of, start
from mirl_server.apis.mirl.image_calls import answered, read_asked
from mirl_server.apis.openapi import TIMED, DescribeAnswer, documented, json_body
from mirl_server.apis.protocol import Json, description_json, stage_json
from mirl_server.handling.choices import IndexedEvent
from mirl_server.handling.requests import ChatRequest, request_example, request_schema
from mirl_server.handling.service import Service, request_context
from mirl_server.handling.streaming import unless_gone
from mirl_server.observability.request_observer import RequestObserver

router = APIRouter()

_OF_ANSWERS = frozenset(
    {
        "stop", "stream", "stream_options", "include_reasoning", "n", "logprobs", "top_logprobs",
        "response_format", "structured_outputs", "parallel_tool_calls",
    }
)  # fmt: skip
TAKEN = (ChatRequest.model_fields.keys() - _OF_ANSWERS) | {"user", "metadata"}


def _schema() -> dict[str, Any]:
    schema = request_schema()
    schema["properties"] = {name: one for name, one in schema["properties"].items() if name in TAKEN}
    return schema | {"title": "DescribeRequest"}


@router.post(
    "/v1/mirl/describe",
    response_class=Response,
    responses=documented(DescribeAnswer, TIMED),
    openapi_extra=json_body(_schema(), request_example()),
)
async def describe(request: Request) -> Response:
    """Describe an image for a question: N descriptions, their MI with the image, and which the gate keeps."""
    return await answered("describe", request, _describe)


async def _describe(service: Service, request: Request, body: dict[str, Any], watch: RequestObserver) -> Json:
    asked = read_asked(service, body, TAKEN)
    context = request_context(request, asked.request_id, asked.cache_salt, asked.priority or 0)
    options = options_of(service, asked)
    started = start(service, request, asked, options, context, watch, forks=False)
    events = await unless_gone(request.receive, started)
    prompt_tokens, gated = await unless_gone(request.receive, _until_gated(watch.events(events)))
    sampled = sum(len(one.token_ids) for one in gated.descriptions)
    return {
        "id": f"describe-{context.request_id}",
        "object": "mirl.describe",
        "created": int(time.time()),
        "model": asked.model or service.names[0],
        "mi_weight": gated.mi_weight,
        "data": [description_json(one) for one in gated.descriptions],
        "stages": [stage_json(stage) for stage in gated.stages],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": sampled,
            "total_tokens": prompt_tokens + sampled,
            "scored_tokens": sum(stage.scored_tokens for stage in gated.stages),
        },
    }


async def _until_gated(events: AsyncGenerator[IndexedEvent, None]) -> tuple[int, Gated]:
    """Length of the prompt in tokens, and what the gate said; the pipeline goes no further."""
    prompt_tokens = 0
    described: dict[int, Description] = {}
    async with aclosing(events):
        async for _, event in events:
            if isinstance(event, Started):
                prompt_tokens = event.prompt_tokens
            elif isinstance(event, Described):
                described[event.description.index] = event.description
            elif isinstance(event, Gated):
                return prompt_tokens, event
            elif isinstance(event, FellBack):
                # No description was usable: each says why, none was scored.
                return prompt_tokens, Gated(
                    tuple(described[i] for i in sorted(described)), stages=event.stages
                )
    raise AssertionError("a pipeline gates or falls back")
