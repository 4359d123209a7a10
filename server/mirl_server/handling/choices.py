"""`n`: several voted answers to one request, each by a run of the pipeline of its own.

The conversation is rendered once, its images with it. Answer 0 samples with the request's own seed, as if it
had been asked for alone; the others with seeds derived from it. The request's token budget is shared out
evenly. One answer that fails fails the request, and frees the engine of the others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mirl_core.algorithm.answers.forms import Form
from mirl_core.config import Limits, MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling, derive_seed
from mirl_core.errors import RequestError
from mirl_core.pipeline.events import Event, Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.pipeline.streams import merge
from mirl_core.types import Conversation, Result

IndexedEvent = tuple[int, Event]
"""Which answer an event is about, counted from 0, and the event."""


def check_count(n: int, limits: Limits) -> None:
    """RequestError where a request asks for more answers than the operator allows."""
    if n > limits.max_choices:
        raise RequestError(f"n is {n}; this server allows at most {limits.max_choices}", param="n")


async def answer(
    pipeline: Pipeline,
    conversation: Conversation,
    options: MIRLOptions,
    sampling: Sampling,
    context: RequestContext,
    n: int,
    form: Form | None = None,
) -> AsyncGenerator[IndexedEvent, None]:
    """The events of `n` answers as they come; `Finished` is the last one of each.

    Raises:
        As `Pipeline.run`, of whichever answer fails first.
    """
    # A single answer renders within its own time limit; several share what was rendered before theirs begin.
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
        )
        for index in range(n)
    ]
    if n == 1:
        # Not by `merge`, which reads ahead: whoever stops listening in between wants no more of it.
        async with aclosing(runs[0]) as alone:
            async for event in alone:
                yield 0, event
        return
    async with aclosing(merge(runs)) as events:
        async for told in events:
            yield told


def _seed(seed: int | None, index: int) -> int | None:
    return derive_seed(seed, "choice", index) if index else seed


def _context(context: RequestContext, index: int) -> RequestContext:
    return replace(context, request_id=f"{context.request_id}-choice-{index}") if index else context


@dataclass(slots=True)
class Results:
    """The results of `n` answers, as far as they are there."""

    n: int
    _found: dict[int, Result] = field(default_factory=dict)

    def note(self, index: int, event: Event) -> None:
        """Hear of an event of answer `index`."""
        if isinstance(event, Finished):
            self._found[index] = event.result

    @property
    def complete(self) -> bool:
        return len(self._found) == self.n

    @property
    def in_order(self) -> list[Result]:
        """The results that are there, by the numbers of their answers."""
        return [self._found[index] for index in sorted(self._found)]
