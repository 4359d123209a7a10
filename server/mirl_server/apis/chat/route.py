"""POST /v1/chat/completions, and the way that a request of every API takes (`answer`).

Through the gate where the newest message is a user's and brings an image, else handed on. Handed on untouched
but for the name, the tenant's cache salt and images by URL, which are fetched here: `NAME:direct`, requests
without a new image (follow-ups, tool turns, text), adapters and unknown names.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import EngineError, MIRLError, RequestError
from mirl_server.access.authentication import caller_of
from mirl_server.apis.base import Api
from mirl_server.apis.chat.request import ChatApi
from mirl_server.apis.openapi import HANDED_ON, ChatAnswer, documented, json_body
from mirl_server.apis.protocol import error_status
from mirl_server.handling.choices import IndexedEvent, Results, check_count
from mirl_server.handling.cost import check_plain, plain_work, run_admitted, take_turn
from mirl_server.handling.effort import options_for
from mirl_server.handling.requests import (
    ChatRequest,
    read_body,
    read_conversation,
    request_example,
    request_schema,
)
from mirl_server.handling.response_format import read_format
from mirl_server.handling.service import Service, add_salt, request_context, service_of
from mirl_server.handling.streaming import (
    ClientGone,
    Events,
    EventStream,
    HeldResponse,
    stream,
    unless_gone,
)
from mirl_server.handling.tools import read_tools
from mirl_server.observability.logs import note, trail
from mirl_server.observability.request_observer import RequestObserver, count_error
from mirl_server.settings.server import request_options

logger = logging.getLogger(__name__)
router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses=documented(ChatAnswer, HANDED_ON, stream=True),
    openapi_extra=json_body(request_schema(), request_example()),
)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    return await answer(ChatApi, request)


async def answer(made: type[Api], request: Request) -> Response:
    """Answer a request of one API: through the gate, or by the backend's own handler."""
    service = service_of(request)
    try:
        api = made(await read_body(request))
        asked = api.body.get("model")
        if (not asked or asked in service.names) and api.brings_image():
            return await _gated(service, request, api)
        return await _plain(service, request, api)
    except MIRLError as error:
        count_error(service, request, error)
        return made.refusal(error)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it


async def _gated(service: Service, request: Request, api: Api) -> Response:
    """Answer through the gate."""
    watch = RequestObserver(service, request, api.operation)
    async with AsyncExitStack() as closing:
        closing.callback(watch.close)
        try:
            asked = api.request()
            context = request_context(request, asked.request_id, asked.cache_salt, asked.priority or 0)
            options = options_of(service, asked)
            voice = api.voice(service, asked, options, context)
            started = start(service, request, asked, options, context, watch)
            source = await unless_gone(request.receive, started)
            events = Events(watch.events(source))
            closing.push_async_callback(events.close)
            if not asked.stream:
                results = Results(asked.n or 1)
                await unless_gone(request.receive, events.each(lambda told: results.note(*told)))
                return JSONResponse(voice.whole(results.in_order))
            # The first event is awaited before headers go out: what is refused until then gets its status.
            first = await unless_gone(request.receive, events.next())
            assert first is not None, "a pipeline always tells something"

            def failed(error: MIRLError) -> None:
                watch.failed(error)
                count_error(service, request, error)
                if error_status(error) >= 500:
                    logger.warning("a gated stream failed: %s", trail(error))

            lines = stream(first, events, voice, service.settings.keep_alive, failed)
            return EventStream(lines, closing.pop_all().aclose)
        except MIRLError as error:
            watch.failed(error)
            if error_status(error) >= 500:
                logger.warning("a gated request failed: %s", trail(error))
            raise api.named(error) from None
        except (ClientGone, ClientDisconnect):
            raise
        except Exception as error:
            # What nobody foresaw may quote the request: the client hears that it happened, the log where.
            logger.error("a gated request failed unexpectedly: %s", trail(error))
            told = EngineError("internal error")
            watch.failed(told)
            raise told from error


def options_of(service: Service, asked: ChatRequest) -> MIRLOptions:
    """The request's knobs over those of its effort over the defaults."""
    limits = service.settings.limits
    return request_options(asked.mirl, options_for(asked.reasoning_effort, service.options, limits), limits)


async def start(
    service: Service,
    request: Request,
    asked: ChatRequest,
    options: MIRLOptions,
    context: RequestContext,
    watch: RequestObserver,
    *,
    forks: bool = True,
) -> AsyncGenerator[IndexedEvent, None]:
    """Check the request, fetch and decode its images, and set the pipeline to it, to start at its turn.

    Args:
        forks: whether chains will be started; describing ends before.
    """
    caller = caller_of(request)
    pipeline = service.engine_pipeline()
    service.check_priority(asked.priority)
    service.check_top_logprobs(asked.top_logprobs)
    check_count(asked.n or 1, service.settings.limits)
    calls = read_tools(
        asked.tools, asked.tool_choice, asked.parallel_tool_calls is not False, service.tool_parser
    )
    form = await read_format(
        asked.response_format, asked.structured_outputs, calls, pipeline.engine, pipeline.settings.tags
    )
    sampling = asked.sampling(pipeline.settings.temperature, pipeline.engine.max_model_len)
    service.admission.check_queue(caller.name, "gated")
    conversation = await read_conversation(asked, service.images)
    name, n = asked.model or service.names[0], asked.n or 1
    pipeline = watch.begin(pipeline, name, options, sampling, context, stream=bool(asked.stream), n=n)
    return run_admitted(
        service, pipeline, caller, conversation, options, sampling, context, n, form, forks=forks
    )


async def _plain(service: Service, request: Request, api: Api) -> Response:
    """Hand the request to the backend's own handler; say the name that was asked for in what it answers."""
    note(request.scope, endpoint=f"{api.operation}:direct")
    body, delegate = api.body, api.delegate(service)
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
    add_salt(body, caller_of(request).tenant)
    check_plain(body, service.settings.limits)
    service.admission.check_queue(caller_of(request).name, "plain")
    if remote := api.remote_images():
        # The backend would fetch by its own rules: it gets the bytes instead.
        urls = [(url, where) for url, where, _ in remote]
        inlined = await unless_gone(request.receive, service.images.inline(urls))
        for (_, _, put), url in zip(remote, inlined, strict=True):
            put(url)

    async def answered() -> Response:
        response = await delegate(body, request)
        return _renamed(response, str(asked), {str(name), *service.names}) if asked != name else response

    return await _at_its_turn(service, request, plain_work(body, service.longest), answered)


async def _at_its_turn(
    service: Service, request: Request, work: tuple[int, int], answered: Callable[[], Awaitable[Response]]
) -> Response:
    """The backend's answer at the request's turn; a stream holds its turn.

    Args:
        work: sequences and tokens that the answer may take.
    """
    async with AsyncExitStack() as closing:
        await take_turn(service, request, closing, *work)
        response = await answered()
        if isinstance(response, StreamingResponse):
            return HeldResponse(response, closing.pop_all().aclose)
        return response


def _renamed(response: Response, model: str, backend_names: Iterable[str]) -> Response:
    """A backend's answer with its `model` field, which says one of its names, saying `model`."""
    # In compact JSON an unescaped key can't occur inside a string, so the first match is the field itself.
    names = "|".join(re.escape(json.dumps(name, ensure_ascii=False)) for name in sorted(backend_names))
    told = re.compile(f'"model":(?:{names})')
    field = f'"model":{json.dumps(model, ensure_ascii=False)}'
    if isinstance(response, StreamingResponse):
        response.body_iterator = _renamed_chunks(response.body_iterator, told, field)
    elif response.status_code == 200:
        response.body = told.sub(lambda _: field, bytes(response.body).decode(), count=1).encode()
        response.headers["content-length"] = str(len(response.body))
    return response


async def _renamed_chunks(
    chunks: AsyncIterable[str | bytes | memoryview], told: re.Pattern[str], field: str
) -> AsyncGenerator[str, None]:
    async for chunk in chunks:
        text = chunk if isinstance(chunk, str) else bytes(chunk).decode()
        yield told.sub(lambda _: field, text, count=1)
