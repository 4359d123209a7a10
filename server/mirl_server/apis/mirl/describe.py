"""`POST /v1/mirl/describe`: the first half of a gated answer: descriptions with their MI, kept or not.

A chat completion with the same fields would fork from these descriptions.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import Described, FellBack, Gated, Started
from mirl_core.types import Description
from mirl_server.apis.evidence import Json, description_json, stage_json
from mirl_server.apis.mirl.image_calls import answer_call, read_image_request
from mirl_server.apis.openapi import DEADLINE_ERRORS, DescribeAnswer, documented, json_body
from mirl_server.handling.context import request_context
from mirl_server.handling.gated import effective_options, start_pipeline
from mirl_server.handling.reading.openapi import request_example, request_schema
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import Service
from mirl_server.handling.streaming import unless_gone
from mirl_server.observability.request_observer import RequestObserver

router = APIRouter()

_ANSWER_FIELDS = frozenset(
    {
        "stop", "stream", "stream_options", "include_reasoning", "n", "logprobs", "top_logprobs",
        "response_format", "structured_outputs", "parallel_tool_calls",
    }
)  # fmt: skip
FIELDS = (ChatRequest.model_fields.keys() - _ANSWER_FIELDS) | {"user", "metadata"}


def _schema() -> dict[str, Any]:
    schema = request_schema()
    schema["properties"] = {
        name: field_schema for name, field_schema in schema["properties"].items() if name in FIELDS
    }
    return schema | {"title": "DescribeRequest"}


@router.post(
    "/v1/mirl/describe",
    response_class=Response,
    responses=documented(DescribeAnswer, DEADLINE_ERRORS),
    openapi_extra=json_body(_schema(), request_example()),
)
async def describe(request: Request) -> Response:
    """Describe an image for a question: N descriptions, their MI with the image, and which the gate keeps."""
    return await answer_call("describe", request, _describe)


async def _describe(
    service: Service, http_request: Request, body: dict[str, Any], observer: RequestObserver
) -> Json:
    request = read_image_request(service, body, FIELDS)
    context = request_context(http_request, request)
    options = effective_options(service, request)
    starting = start_pipeline(service, http_request, request, options, context, observer, forks=False)
    events = await unless_gone(http_request.receive, starting)
    prompt_tokens, gated = await unless_gone(http_request.receive, _until_gated(observer.events(events)))
    sampled = sum(stage.generated_tokens for stage in gated.stages)
    return {
        "id": f"describe-{context.request_id}",
        "object": "mirl.describe",
        "created": int(time.time()),
        "model": service.response_name(request.model),
        "mi_weight": gated.mi_weight,
        "data": [description_json(description) for description in gated.descriptions],
        "stages": [stage_json(stage) for stage in gated.stages],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": sampled,
            "total_tokens": prompt_tokens + sampled,
            "scored_tokens": sum(stage.scored_tokens for stage in gated.stages),
        },
    }


async def _until_gated(events: AsyncGenerator[ChoiceEvent, None]) -> tuple[int, Gated]:
    """Read the events, of which the gate's is the last; return the prompt's tokens and that event."""
    prompt_tokens = 0
    described: dict[int, Description] = {}
    async with aclosing(events):
        async for choice_event in events:
            event = choice_event.event
            if isinstance(event, Started):
                prompt_tokens = event.prompt_tokens
            elif isinstance(event, Described):
                described[event.description.index] = event.description
            elif isinstance(event, Gated):
                return prompt_tokens, event
            elif isinstance(event, FellBack):
                # No description was usable: each carries its reason, and none was scored.
                return prompt_tokens, Gated(
                    tuple(described[i] for i in sorted(described)), stages=event.stages
                )
    raise AssertionError("a pipeline gates or falls back")
