"""Third stage: continue every kept description into m reasoning chains, until the vote is decided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import Outcome, Pending
from mirl_core.engines.base import RequestContext, Sample
from mirl_core.pipeline.chains import SampledChains, chain_prompt, chain_sampling, read_chain, usage_of
from mirl_core.pipeline.events import ChainDone, Decided
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.streams import merge
from mirl_core.types import Chain, Description

__all__ = ["fork"]


async def fork(
    request: Request, kept: Sequence[Description], used: int
) -> AsyncGenerator[ChainDone | Decided | SampledChains, None]:
    """Yield each chain as it finishes, the decision if it comes early, and last the stage's result.

    Args:
        kept: the descriptions to continue.
        used: what the request has sampled so far; tokens.
    """
    started = time.perf_counter()
    options = request.options
    sources, contexts = await _forks(request, kept, used)
    pending = {
        (description.index, index): Pending(description.index, index, description.score)
        for description in kept
        for index in range(options.forks)
    }
    chains: list[Chain] = []
    samples: list[Sample] = []
    outcome: Outcome | None = None
    with request.deadline.aborts(*(context.request_id for context in contexts)):
        async with aclosing(merge(sources)) as arrivals:
            async for source, sample in arrivals:
                chain = read_chain(request, sample, kept[source])
                del pending[kept[source].index, sample.index]
                chains.append(chain)
                samples.append(sample)
                yield ChainDone(chain)
                if outcome or not options.early_stop or not pending or request.deadline.passed:
                    continue
                if voting.decided(chains, list(pending.values()), options.aggregate):
                    outcome = voting.tally(chains, options.aggregate)
                    assert outcome is not None, "a decided vote has an answer"
                    yield Decided(outcome.vote, outcome.representative, len(pending))
                    await asyncio.gather(*(request.engine.abort(context.request_id) for context in contexts))
    usage = usage_of("fork", chains, time.perf_counter() - started)
    yield SampledChains(tuple(chains), tuple(samples), request.rendered, usage, outcome)


async def _forks(
    request: Request, kept: Sequence[Description], used: int
) -> tuple[list[AsyncGenerator[Sample, None]], list[RequestContext]]:
    """Return, per kept description, the generator of its chains and the context of that engine call."""
    forks = request.options.forks
    rendered = await chain_prompt(request)
    sources: list[AsyncGenerator[Sample, None]] = []
    contexts: list[RequestContext] = []
    for description in kept:
        sampling = chain_sampling(request, description, used, len(kept) * forks)
        context = request.stage_context(f"fork-{description.index}")
        suffix = (*request.opening, *description.token_ids)
        contexts.append(context)
        sources.append(request.engine.generate(rendered, suffix, forks, sampling, context))
    return sources, contexts
