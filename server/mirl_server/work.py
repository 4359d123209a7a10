"""A request's work under admission: what it counts for, and a pipeline that starts when its turn has come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.events import ChainDone, Described, Event, Finished
from mirl_core.types import Conversation
from mirl_server.auth import Caller
from mirl_server.service import Service


def fan_out(options: MIRLOptions, max_tokens: int) -> tuple[int, int]:
    """Sequences (N + k·m) and tokens that a gated request may come to; `max_tokens` bounds a trajectory."""
    described = options.descriptions
    kept = described if options.gate == "none" else min(options.keep, described)
    chains = kept * options.forks
    tokens = described * min(options.description_tokens, max_tokens) + chains * max_tokens
    return described + chains, min(tokens, options.max_total_tokens or tokens)


async def run_admitted(
    service: Service,
    caller: Caller,
    conversation: Conversation,
    options: MIRLOptions,
    sampling: Sampling,
    context: RequestContext,
) -> AsyncGenerator[Event, None]:
    """The pipeline's events, from the request's turn on; the turn is held until the pipeline is closed.

    The time that it waited counts in its `timeout`. Tokens are counted to the caller as they come, so that a
    client that leaves before the end has used what was generated for it.

    Raises:
        BusyError, DrainingError: before the first event.
    """
    sequences, tokens = fan_out(options, sampling.max_tokens)
    async with service.admit(caller, sequences, tokens, options.timeout) as waited:
        if options.timeout is not None and waited:
            left = max(options.timeout - waited, 0.001)
            options = options.model_copy(update={"timeout": left})
        caller.generated = 0
        async with aclosing(
            service.engine_pipeline().run(conversation, options, sampling, context)
        ) as events:
            async for event in events:
                _count(caller, event)
                yield event


def _count(caller: Caller, event: Event) -> None:
    if isinstance(event, Described):
        caller.generate(len(event.description.token_ids))
    elif isinstance(event, ChainDone):
        caller.generate(event.chain.tokens)
    elif isinstance(event, Finished):
        caller.generated = event.result.completion_tokens
