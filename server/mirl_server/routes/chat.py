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
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError, RequestError
from mirl_core.events import Event, Finished
from mirl_server.auth import caller_of
from mirl_server.protocol import Answer, error_response, error_status
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
from mirl_server.streaming import ClientGone, Events, EventStream, HeldResponse, stream, unless_gone
from mirl_server.work import run_admitted

logger = logging.getLogger(__name__)
router = APIRouter()

# In compact JSON an unescaped key can't occur inside a string, so the first match is the field itself.
_MODEL_FIELD = re.compile(r'"model":"(?:[^"\\]|\\.)*"')
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "A field or an image is wrong; error.param names it",
        404: "The model is not served",
        401: "The API key is missing or unknown",
        408: "The body did not arrive in time",
        413: "An image or the request is over the operator's limit",
        429: "The key's limits are used up, or there is no room; Retry-After says when to try again",
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
            answer = Answer.new(
                context.request_id,
                asked.model or service.names[0],
                reasoning=asked.include_reasoning is not False,
                reasoning_content=service.settings.reasoning_content,
                include_usage=service.force_usage
                or bool(asked.stream_options and asked.stream_options.include_usage),
            )
            events = Events(await _start(service, request, asked, context))
            closing.push_async_callback(events.close)
            if not asked.stream:
                last = cast("Finished", await unless_gone(request.receive, events.last()))
                tracker.event(last)
                return JSONResponse(answer.completion(last.result))
            # The first event is awaited before headers go out: what is refused until then gets its status.
            first = await unless_gone(request.receive, events.next())
            assert first is not None, "a pipeline always tells something"

            def tell(event: Event) -> list[dict[str, Any]]:
                tracker.event(event)
                return answer.chunks(event)

            lines = stream(first, events, tell, service.settings.keep_alive, tracker.failed)
            return EventStream(lines, closing.pop_all().aclose)
        except MIRLError as error:
            tracker.failed(error)
            if error_status(error) >= 500:
                logger.warning("a gated request failed: %s: %s", type(error).__name__, error.message)
            raise


async def _start(
    service: Service, request: Request, asked: ChatRequest, context: RequestContext
) -> AsyncGenerator[Event, None]:
    """Check the request, decode its images, and set the pipeline to it, to start at its turn."""
    caller = caller_of(request)
    pipeline = service.engine_pipeline()
    service.check_priority(asked.priority)
    options = request_options(asked.mirl, service.options, service.settings.limits)
    sampling = asked.sampling(pipeline.settings.temperature, pipeline.engine.max_model_len)
    service.admission.check_queue(caller.name, "gated")
    conversation = await read_conversation(asked, service.settings.limits)
    return run_admitted(service, caller, conversation, options, sampling, context)


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
        salt = cache_salt(caller_of(request).tenant, own_salt)
        if salt is not None:
            body["cache_salt"] = salt
    return await _delegate(service, request, body, str(asked) if asked != name else None)


async def _delegate(service: Service, request: Request, body: dict[str, Any], alias: str | None) -> Response:
    """The backend's answer, at the request's turn, with `alias` for a model; a stream holds its turn."""
    n = body.get("n")
    sequences = n if isinstance(n, int) else 1
    async with AsyncExitStack() as closing:
        turn = closing.enter_async_context(service.admit(caller_of(request), sequences, kind="plain"))
        # A task that watches for the client costs time, and without a wait there is nothing to watch.
        await (turn if service.admission.has_room(sequences, "plain") else unless_gone(request.receive, turn))
        response = await service.delegate(body, request)
        if alias is not None:
            response = _renamed(response, alias)
        if isinstance(response, StreamingResponse):
            return HeldResponse(response, closing.pop_all().aclose)
        return response


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
