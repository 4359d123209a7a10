"""A request through the gate: its pipeline runs at the request's turn, and its events become the response."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from mirl_core.algorithm.answers.forms import Form
from mirl_core.algorithm.budget import fanout
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.errors import EngineError, MIRLError
from mirl_core.pipeline.choices import ChoiceEvent, check_count, run_choices
from mirl_core.pipeline.events import ChainDone, Described, FellBack, Finished, Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, Result
from mirl_server.access.authentication import Caller, caller_of
from mirl_server.handling.api import Api
from mirl_server.handling.context import request_context
from mirl_server.handling.reading.conversation import read_conversation
from mirl_server.handling.reading.effort import options_for
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.reading.response_format import read_format
from mirl_server.handling.reading.tools import read_tools
from mirl_server.handling.service import Service
from mirl_server.handling.streaming import ClientGone, EventReader, EventStream, stream, unless_gone
from mirl_server.http.errors import error_status
from mirl_server.observability.logs import trail
from mirl_server.observability.request_observer import RequestObserver, count_error
from mirl_server.settings.server import request_options

logger = logging.getLogger(__name__)


async def answer_gated(service: Service, http_request: Request, api: Api) -> Response:
    """Answer a request through the gate.

    Raises:
        MIRLError: with the API's names; nothing was sent yet.
        ClientGone: the client left before the response began.
    """
    observer = RequestObserver(service, http_request, api.operation)
    async with AsyncExitStack() as cleanup:
        cleanup.callback(observer.close)
        try:
            request = api.read_request()
            context = request_context(http_request, request)
            options = effective_options(service, request)
            writer = api.writer(service, request, options, context)
            starting = start_pipeline(service, http_request, request, options, context, observer)
            source = await unless_gone(http_request.receive, starting)
            events = EventReader(observer.events(source))
            cleanup.push_async_callback(events.close)
            if not request.stream:
                return JSONResponse(writer.whole(await unless_gone(http_request.receive, _results(events))))
            # The headers wait for the first event, so that an error until then gets its own status.
            first = await unless_gone(http_request.receive, events.next())
            assert first is not None, "a pipeline yields at least one event"

            def on_error(error: MIRLError) -> None:
                observer.failed(error)
                count_error(service, http_request, error)
                if error_status(error) >= 500:
                    logger.warning("a gated stream failed: %s", trail(error))

            lines = stream(first, events, writer, service.settings.keep_alive, on_error)
            return EventStream(lines, cleanup.pop_all().aclose)
        except MIRLError as error:
            observer.failed(error)
            if error_status(error) >= 500:
                logger.warning("a gated request failed: %s", trail(error))
            raise api.rename_error(error) from None
        except (ClientGone, ClientDisconnect):
            raise
        except Exception as error:
            # An unforeseen message may quote the request: the client gets none of it, the log the code's
            # path.
            logger.error("a gated request failed unexpectedly: %s", trail(error))
            internal_error = EngineError("internal error")
            observer.failed(internal_error)
            raise internal_error from error


async def _results(events: EventReader[ChoiceEvent]) -> tuple[Result, ...]:
    """Read all events; return the results of all choices."""
    results: tuple[Result, ...] | None = None
    while (event := await events.next()) is not None:
        results = event.results or results
    assert results is not None, "a pipeline ends with a result"
    return results


def effective_options(service: Service, request: ChatRequest) -> MIRLOptions:
    """Return the request's options: its own, over those of its effort, over the defaults.

    Raises:
        RequestError: an option is unknown, wrong or over the operator's limit.
    """
    limits = service.settings.limits
    return request_options(
        request.mirl, options_for(request.reasoning_effort, service.options, limits), limits
    )


async def start_pipeline(
    service: Service,
    http_request: Request,
    request: ChatRequest,
    options: MIRLOptions,
    context: RequestContext,
    observer: RequestObserver,
    *,
    forks: bool = True,
) -> AsyncGenerator[ChoiceEvent, None]:
    """Check the request, fetch and decode its images, and return its events, which start at its turn.

    Args:
        forks: whether chains are sampled; describing ends before them.

    Raises:
        MIRLError: the request is refused.
    """
    caller = caller_of(http_request)
    pipeline = service.engine_pipeline()
    service.check_priority(request.priority)
    service.check_top_logprobs(request.top_logprobs)
    n = request.n or 1
    check_count(n, service.settings.limits)
    calls = read_tools(
        request.tools, request.tool_choice, request.parallel_tool_calls is not False, service.tool_parser
    )
    form = await read_format(
        request.response_format,
        request.structured_outputs,
        calls,
        pipeline.engine,
        pipeline.settings.tags,
    )
    sampling = request.sampling(pipeline.settings.temperature, pipeline.engine.max_model_len)
    service.admission.check_queue(caller.name, "gated")
    conversation = await read_conversation(request, service.images)
    model = service.response_name(request.model)
    pipeline = observer.begin(pipeline, model, options, sampling, context, stream=bool(request.stream), n=n)
    return run_admitted(
        service, pipeline, caller, conversation, options, sampling, context, n, form, forks=forks
    )


async def run_admitted(
    service: Service,
    pipeline: Pipeline,
    caller: Caller,
    conversation: Conversation,
    options: MIRLOptions,
    sampling: Sampling,
    context: RequestContext,
    n: int,
    form: Form | None,
    *,
    forks: bool,
) -> AsyncGenerator[ChoiceEvent, None]:
    """Yield the events of `n` choices from the request's turn on; the turn lasts until the generator is
    closed.

    The wait counts in the request's `timeout`. Tokens are counted to the caller as they come, so that a
    client that leaves early is charged for what was generated.

    Args:
        forks: whether chains are sampled; else the events end with the gate's.

    Raises:
        BusyError, DrainingError: before the first event.
    """
    bounds = fanout(options, sampling.max_tokens, answers=n, forks=forks)
    async with service.admit(caller, bounds.sequences, bounds.tokens, options.timeout) as waited:
        if options.timeout is not None and waited:
            options = options.model_copy(update={"timeout": max(options.timeout - waited, 0.001)})
        caller.generated = 0
        generated: Counter[int] = Counter()
        choices = run_choices(pipeline, conversation, options, sampling, context, n, form, chains=forks)
        async with aclosing(choices) as events:
            async for event in events:
                _count_tokens(generated, event)
                caller.generated = generated.total()
                yield event


def _count_tokens(generated: Counter[int], choice_event: ChoiceEvent) -> None:
    """Add an event's sampled tokens to the count of its choice."""
    index, event = choice_event.index, choice_event.event
    if isinstance(event, Described):
        generated[index] += event.sampled_tokens
    elif isinstance(event, ChainDone):
        generated[index] += event.chain.tokens
    elif isinstance(event, Gated | FellBack):
        # The drafts of decoded descriptions included.
        generated[index] = sum(stage.generated_tokens for stage in event.stages)
    elif isinstance(event, Finished):
        generated[index] = event.result.completion_tokens
