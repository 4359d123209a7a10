"""POST /v1/chat/completions: through the gate where the newest user message brings an image, else handed on.

Handed on untouched but for the name and the tenant's cache salt: `NAME:direct`, requests without a new image
(follow-ups, tool turns, text), adapters and unknown names.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError, RequestError
from mirl_server import choices
from mirl_server.choices import Results, Told
from mirl_server.effort import options_for
from mirl_server.formats import read_format
from mirl_server.protocol import Answer, budget, error_response, error_status
from mirl_server.requests import (
    ChatRequest,
    brings_image,
    read_body,
    read_conversation,
    read_request,
    request_schema,
)
from mirl_server.service import Service, cache_salt, request_context, service_of
from mirl_server.settings import request_options
from mirl_server.streaming import ClientGone, Events, EventStream, stream, unless_gone
from mirl_server.tools import NamedChoice, read_tools

logger = logging.getLogger(__name__)
router = APIRouter()

# In compact JSON an unescaped key can't occur inside a string, so the first match is the field itself.
_MODEL_FIELD = re.compile(r'"model":"(?:[^"\\]|\\.)*"')
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "A field or an image is wrong; error.param names it",
        404: "The model is not served",
        413: "An image or the request is over the operator's limit",
        500: "The engine failed on this request",
        503: "The engine is gone, or the server is shutting down",
        504: "mirl.timeout passed with nothing to return",
    }.items()
}


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}, **_ERRORS},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": request_schema()}}}
    },
)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    try:
        body = await read_body(request)
        asked = body.get("model")
        if (not asked or asked in service.names) and brings_image(body.get("messages")):
            return await _gated(service, request, body)
        return await _plain(service, request, body)
    except MIRLError as error:
        return error_response(error)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it


async def _gated(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Answer through the gate."""
    tracker = service.metrics.track()
    async with AsyncExitStack() as closing:
        closing.callback(tracker.close)
        try:
            asked = read_request(body)
            context = request_context(request, asked.request_id, asked.cache_salt, asked.priority or 0)
            options = _options(service, asked)
            results = Results(asked.n or 1)
            tracker.answers = results.n
            answer = Answer.new(
                context.request_id,
                asked.model or service.names[0],
                budget(options),
                named_tool=isinstance(asked.tool_choice, NamedChoice),
                reasoning=asked.include_reasoning is not False,
                reasoning_content=service.settings.reasoning_content,
                include_usage=service.force_usage
                or bool(asked.stream_options and asked.stream_options.include_usage),
            )
            events = Events(await _start(service, asked, options, context))
            closing.push_async_callback(events.close)

            def hear(told: Told) -> None:
                tracker.event(told[1])
                results.note(*told)

            if not asked.stream:
                await unless_gone(request.receive, events.each(hear))
                return JSONResponse(answer.completion(results.in_order))
            # The first event is awaited before headers go out: what is refused until then gets its status.
            first = await unless_gone(request.receive, events.next())
            assert first is not None, "a pipeline always tells something"

            def tell(told: Told) -> list[dict[str, Any]]:
                hear(told)
                chunks = answer.chunks(*told)
                if results.complete and answer.include_usage:
                    chunks.append(answer.usage_chunk(results.in_order))
                return chunks

            lines = stream(first, events, tell, service.settings.keep_alive, tracker.failed)
            return EventStream(lines, closing.pop_all().aclose)
        except MIRLError as error:
            tracker.failed(error)
            if error_status(error) >= 500:
                logger.warning("a gated request failed: %s: %s", type(error).__name__, error.message)
            raise


def _options(service: Service, asked: ChatRequest) -> MIRLOptions:
    """The request's knobs over those of its effort over the defaults."""
    limits = service.settings.limits
    return request_options(asked.mirl, options_for(asked.reasoning_effort, service.options, limits), limits)


async def _start(
    service: Service, asked: ChatRequest, options: MIRLOptions, context: RequestContext
) -> AsyncGenerator[Told, None]:
    """Check the request, decode its images, and set the pipeline to it."""
    pipeline = service.engine_pipeline()
    service.check_priority(asked.priority)
    service.check_top_logprobs(asked.top_logprobs)
    choices.check_count(asked.n or 1, service.settings.limits)
    calls = read_tools(
        asked.tools, asked.tool_choice, asked.parallel_tool_calls is not False, service.tool_parser
    )
    form = await read_format(
        asked.response_format, asked.structured_outputs, calls, pipeline.engine, pipeline.settings.tags
    )
    sampling = asked.sampling(pipeline.settings.temperature, pipeline.engine.max_model_len)
    conversation = await read_conversation(asked, service.settings.limits)
    return choices.answer(pipeline, conversation, options, sampling, context, asked.n or 1, form)


async def _plain(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Hand the request to the backend's own handler; say the name that was asked for in what it answers."""
    asked = body.get("model")
    # A name that isn't text is the backend's to refuse.
    name = service.backend_name(asked) if isinstance(asked, str) else asked
    options = body.pop("mirl", None)
    if options is not None:
        # A client may send its knobs with every turn, follow-ups too: they are checked, and have no say here.
        request_options(options, service.options, service.settings.limits)
        if asked != name:
            raise RequestError(f"'{asked}' is not gated: leave mirl out, or ask '{name}'", param="mirl")
    if asked != name:
        body["model"] = name
    own_salt = body.get("cache_salt")
    if own_salt is None or isinstance(own_salt, str):
        salt = cache_salt(request.headers.get("authorization"), own_salt)
        if salt is not None:
            body["cache_salt"] = salt
    response = await service.delegate(body, request)
    return _renamed(response, str(asked)) if asked != name else response


def _renamed(response: Response, model: str) -> Response:
    """A backend's answer with its `model` field saying `model`."""
    field = f'"model":{json.dumps(model, ensure_ascii=False)}'
    if isinstance(response, StreamingResponse):
        response.body_iterator = _renamed_chunks(response.body_iterator, field)
    elif response.status_code == 200:
        response.body = _MODEL_FIELD.sub(lambda _: field, bytes(response.body).decode(), count=1).encode()
        response.headers["content-length"] = str(len(response.body))
    return response


async def _renamed_chunks(
    chunks: AsyncIterable[str | bytes | memoryview], field: str
) -> AsyncGenerator[str, None]:
    async for chunk in chunks:
        text = chunk if isinstance(chunk, str) else bytes(chunk).decode()
        yield _MODEL_FIELD.sub(lambda _: field, text, count=1)
