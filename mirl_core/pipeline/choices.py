"""`n`: several voted answers to one request, each from a pipeline run of its own.

The conversation is rendered once, its images with it. Choice 0 samples with the request's seed, as a single
answer would; the others with seeds derived from it. The request's token budget is shared evenly. A choice
that fails fails the request, and frees the engine of the others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from mirl_core.algorithm.answers.forms import Form
from mirl_core.config import Limits, MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling, derive_seed
from mirl_core.errors import RequestError
from mirl_core.pipeline.events import Event, Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.pipeline.streams import merge
from mirl_core.types import Conversation, Result


@dataclass(frozen=True, slots=True)
class ChoiceEvent:
    """A pipeline event of one of a request's choices."""

    index: int
    """The choice, counted from 0."""
    event: Event
    results: tuple[Result, ...] | None = None
    """The results of all choices, in order, on the event that completes the request; None on every other."""


def check_count(n: int, limits: Limits) -> None:
    """Raise RequestError where a request asks for more choices than the operator allows."""
    if n > limits.max_choices:
        raise RequestError(f"n is {n}; this server allows at most {limits.max_choices}", param="n")


async def run_choices(
    pipeline: Pipeline,
    conversation: Conversation,
    options: MIRLOptions,
    sampling: Sampling,
    context: RequestContext,
    n: int,
    form: Form | None = None,
    *,
    chains: bool = True,
) -> AsyncGenerator[ChoiceEvent, None]:
    """Yield the events of `n` choices as they come; `Finished` is the last event of each choice.

    Args:
        chains: as in `Pipeline.run`.

    Raises:
        MIRLError: the error of the first choice whose `Pipeline.run` fails.
    """
    # A single choice renders within its own time limit; several share what is rendered before theirs begin.
    rendered = await pipeline.render(conversation, context) if n > 1 else None
    if options.max_total_tokens is not None:
        options = options.model_copy(update={"max_total_tokens": max(options.max_total_tokens // n, 1)})
    runs = [
        pipeline.run(
            conversation,
            options,
            replace(sampling, seed=_seed(sampling.seed, index)),
            _context(context, index),
            rendered,
            form,
            chains=chains,
        )
        for index in range(n)
    ]
    if n == 1:
        # Not by `merge`, which reads ahead: a reader that stops between two events wants no further work.
        async with aclosing(runs[0]) as events:
            async for event in events:
                yield ChoiceEvent(0, event, (event.result,) if isinstance(event, Finished) else None)
        return
    results: dict[int, Result] = {}
    async with aclosing(merge(runs)) as indexed_events:
        async for index, event in indexed_events:
            if isinstance(event, Finished):
                results[index] = event.result
            complete = isinstance(event, Finished) and len(results) == n
            yield ChoiceEvent(index, event, tuple(results[i] for i in range(n)) if complete else None)


def _seed(seed: int | None, index: int) -> int | None:
    return derive_seed(seed, "choice", index) if index else seed


def _context(context: RequestContext, index: int) -> RequestContext:
    return replace(context, request_id=f"{context.request_id}-choice-{index}") if index else context
