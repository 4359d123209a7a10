"""Describe → score and gate → fork → vote, or decode → vote → sample more, as an async generator of events.

Each stage is a module that takes a `Request` and the result of the stage before. A stage that streams is an
async generator of events whose last item is the stage's result.

Guarantees, each property-tested in tests/unit/pipeline/test_properties.py:
- every sampled token is counted once in `Result.completion_tokens`, dropped and aborted sequences included;
- nothing runs in the engine once the generator is exhausted, closed or cancelled;
- `Finished` is the last event, and comes once;
- a request's images are rendered once, whatever N, k and m.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from mirl_core.algorithm import voting
from mirl_core.algorithm.answers.forms import Form
from mirl_core.algorithm.budget import check_budget
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, Rendered, RequestContext, Sampling
from mirl_core.pipeline.chains import SampledChains
from mirl_core.pipeline.deadline import Deadline
from mirl_core.pipeline.events import Branched, ChainDone, Decided, Event, FellBack, Finished, Gated, Started
from mirl_core.pipeline.gated.describe import SampledDescriptions, describe
from mirl_core.pipeline.gated.fork import fork
from mirl_core.pipeline.gated.score import score_and_gate
from mirl_core.pipeline.plain import plain
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.result import make_result
from mirl_core.pipeline.steered.stage import Steered, steer
from mirl_core.types import Conversation, Description, StageUsage

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Pipeline"]

NO_USABLE_DESCRIPTION = "no usable description"


class Pipeline:
    """The algorithm over one engine. It keeps no state of a request: any number may run at once.

    Args:
        engine: runs the model.
        settings: the model's tags, instruction and defaults.
        references: images for the `reference` estimator; never another request's.
        closing: once it is set, every run ends as at its deadline: with what finished, or a DrainingError.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        references: Sequence[Image] = (),
        closing: asyncio.Event | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.references = tuple(references)
        self.closing = closing

    def over(self, engine: Engine) -> Pipeline:
        """Return the same pipeline over another engine."""
        return Pipeline(engine, self.settings, self.references, self.closing)

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        """Render the conversation with the model's instruction to look first: what `run` samples from."""
        return await self.engine.render(conversation.with_instruction(self.settings.instruction), context)

    async def run(
        self,
        conversation: Conversation,
        options: MIRLOptions,
        sampling: Sampling,
        context: RequestContext,
        rendered: Rendered | None = None,
        form: Form | None = None,
        *,
        chains: bool = True,
    ) -> AsyncGenerator[Event, None]:
        """Answer one conversation. `sampling.max_tokens` bounds one trajectory: description plus chain.

        Args:
            rendered: the conversation as `render` returns it, for several runs over one rendering; None:
                `run` renders it.
            form: the form that answers must or may have; the engine has checked that it supports it.
            chains: False: only descriptions are wanted; the run ends with `Gated` or `FellBack`.

        Raises:
            RequestError: the options can't be met, or the engine refuses the conversation.
            DeadlineError: `options.timeout` passed before any chain had an answer; without `chains`, before
                all descriptions were complete.
            DrainingError: `closing` was set before that.
            EngineError: the engine failed.
        """
        async with Deadline(options.timeout, self.engine.abort, self.closing) as deadline:
            check_budget(options)
            request = Request(
                engine=self.engine,
                settings=self.settings,
                references=self.references,
                conversation=conversation,
                options=options,
                sampling=sampling,
                context=context,
                form=form,
                rendered=rendered or await self.render(conversation, context),
                opening=self.engine.encode(self.settings.tags.description[0]),
                deadline=deadline,
            )
            yield Started(request.rendered.prompt_tokens)
            answer = _steered if options.steered else _gated
            async with aclosing(answer(request, chains)) as events:
                async for event in events:
                    yield event


async def _gated(request: Request, chains: bool) -> AsyncGenerator[Event, None]:
    """Yield the events of a request whose descriptions are sampled and gated."""
    async with aclosing(describe(request)) as descriptions_stage:
        async for item in descriptions_stage:
            if isinstance(item, SampledDescriptions):
                described = item
            else:
                yield item
    if not described.any_usable:
        rest = _plainly(request, described.descriptions, (described.usage,), chains)
    else:
        gated = await score_and_gate(request, described)
        stages = (described.usage, gated.usage)
        yield Gated(gated.descriptions, gated.mi_weight, stages)
        if not chains:
            return
        forking = fork(request, gated.kept, described.usage.generated_tokens)
        rest = _voted(request, gated.descriptions, forking, stages, mi_weight=gated.mi_weight)
    async with aclosing(rest) as events:
        async for event in events:
            yield event


async def _steered(request: Request, chains: bool) -> AsyncGenerator[Event, None]:
    """Yield the events of a request whose descriptions are decoded contrastively."""
    async with aclosing(steer(request, chains=chains)) as stage:
        async for item in stage:
            if isinstance(item, Steered):
                steered = item
            else:
                yield item
    descriptions, stages = steered.descriptions, steered.stages
    if not steered.any_usable:
        async with aclosing(_plainly(request, descriptions, stages, chains)) as events:
            async for event in events:
                yield event
    elif chains:
        async for event in _concluded(request, descriptions, steered.chains, stages, steered.mi_weight):
            yield event
    else:
        yield Gated(descriptions, steered.mi_weight, stages)


async def _plainly(
    request: Request, descriptions: tuple[Description, ...], stages: tuple[StageUsage, ...], chains: bool
) -> AsyncGenerator[Event, None]:
    """Yield the events of a request without a usable description, from where that is known."""
    yield FellBack(NO_USABLE_DESCRIPTION, stages)
    if chains:
        used = sum(stage.generated_tokens for stage in stages)
        answering = _voted(
            request, descriptions, plain(request, used), stages, fallback=NO_USABLE_DESCRIPTION
        )
        async with aclosing(answering) as events:
            async for event in events:
                yield event


async def _voted(
    request: Request,
    descriptions: tuple[Description, ...],
    sampling: AsyncGenerator[Branched | ChainDone | Decided | SampledChains, None],
    stages: tuple[StageUsage, ...],
    *,
    mi_weight: float | None = None,
    fallback: str | None = None,
) -> AsyncGenerator[Event, None]:
    """Yield the events of the stage that samples chains, and those of the vote."""
    async with aclosing(sampling) as chains_stage:
        async for entry in chains_stage:
            if isinstance(entry, SampledChains):
                chains = entry
            else:
                yield entry
    async for event in _concluded(request, descriptions, chains, stages, mi_weight, fallback):
        yield event


async def _concluded(
    request: Request,
    descriptions: tuple[Description, ...],
    chains: SampledChains,
    stages: tuple[StageUsage, ...],
    mi_weight: float | None,
    fallback: str | None = None,
) -> AsyncGenerator[Event, None]:
    """Yield the decision, unless it came early, and the result."""
    outcome = chains.outcome
    if outcome is None:
        outcome = await asyncio.to_thread(voting.tally, chains.chains, request.options.aggregate)
        if outcome is not None:
            yield Decided(outcome.vote, outcome.representative, outstanding=0)
    yield Finished(
        await make_result(
            request,
            descriptions,
            chains,
            outcome,
            (*stages, chains.usage),
            mi_weight=mi_weight,
            fallback=fallback,
        )
    )
