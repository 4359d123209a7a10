"""A request's work under admission: what it counts for, and a pipeline that starts when its turn has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.events import ChainDone, Described, Event, Finished
from mirl_core.formats import Form
from mirl_core.pipeline import Pipeline
from mirl_core.types import Conversation
from mirl_server import choices
from mirl_server.auth import Caller
from mirl_server.choices import Told
from mirl_server.service import Service


def fan_out(options: MIRLOptions, max_tokens: int, n: int = 1) -> tuple[int, int]:
    """Sequences (n times N + k·m) and tokens that a gated request may come to.

    Args:
        max_tokens: bounds a trajectory.
        n: how many answers it asks for.
    """
    described = options.descriptions
    kept = described if options.gate == "none" else min(options.keep, described)
    chains = kept * options.forks
    tokens = described * min(options.description_tokens, max_tokens) + chains * max_tokens
    return n * (described + chains), min(n * tokens, options.max_total_tokens or n * tokens)


async def run_admitted(
    service: Service,
    pipeline: Pipeline,
    caller: Caller,
    conversation: Conversation,
    options: MIRLOptions,
    sampling: Sampling,
    context: RequestContext,
    n: int = 1,
    form: Form | None = None,
) -> AsyncGenerator[Told, None]:
    """The events of `n` answers, from the request's turn on; the turn is held until they are closed.

    The time that it waited counts in its `timeout`. Tokens are counted to the caller as they come, so that a
    client that leaves before the end has used what was generated for it.

    Raises:
        BusyError, DrainingError: before the first event.
    """
    sequences, tokens = fan_out(options, sampling.max_tokens, n)
    async with service.admit(caller, sequences, tokens, options.timeout) as waited:
        if options.timeout is not None and waited:
            left = max(options.timeout - waited, 0.001)
            options = options.model_copy(update={"timeout": left})
        caller.generated = 0
        generated: Counter[int] = Counter()
        answers = choices.answer(pipeline, conversation, options, sampling, context, n, form)
        async with aclosing(answers) as events:
            async for told in events:
                _count(generated, *told)
                caller.generated = generated.total()
                yield told


def _count(generated: Counter[int], index: int, event: Event) -> None:
    """Tokens by answer."""
    if isinstance(event, Described):
        generated[index] += len(event.description.token_ids)
    elif isinstance(event, ChainDone):
        generated[index] += event.chain.tokens
    elif isinstance(event, Finished):
        generated[index] = event.result.completion_tokens
