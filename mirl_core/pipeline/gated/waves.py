"""Third stage, in waves: the best descriptions' chains first, and more of them while the vote is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import Outcome, Pending
from mirl_core.engines.base import Rendered, RequestContext, Sample
from mirl_core.pipeline.chains import SampledChains, chain_prompt, chain_sampling, read_chain, usage_of
from mirl_core.pipeline.events import Branched, ChainDone, Decided
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.streams import merge
from mirl_core.types import Chain, Description

__all__ = ["fork_in_waves", "in_rank_order"]


def in_rank_order(kept: Sequence[tuple[int, float | None]], forks: int) -> list[tuple[int, int]]:
    """Return (description, fork) of all chains: every description's first fork by rank, then its second, …

    Args:
        kept: index and gate score of each description.
    """
    ranked = sorted(kept, key=lambda item: (-(item[1] or 0.0), item[0]))
    return [(index, fork) for fork in range(forks) for index, _ in ranked]


async def fork_in_waves(
    request: Request, kept: Sequence[Description], used: int
) -> AsyncGenerator[Branched | ChainDone | Decided | SampledChains, None]:
    """Yield each chain as it finishes, the decision if it comes early, and last the stage's result.

    Each chain samples as the same chain does where all start at once.

    Args:
        kept: the descriptions to continue.
        used: what the request has sampled so far; tokens.
    """
    started = time.perf_counter()
    options = request.options
    rendered = await chain_prompt(request)
    descriptions = {description.index: description for description in kept}
    scores = [(index, description.score) for index, description in descriptions.items()]
    waiting = in_rank_order(scores, options.forks)
    pending = {(index, fork): Pending(index, fork, descriptions[index].score) for index, fork in waiting}
    most = len(waiting)
    chains: list[Chain] = []
    samples: list[Sample] = []
    outcome: Outcome | None = None
    while waiting and outcome is None and not request.deadline.passed:
        if voting.certain(chains, options.aggregate, options.certainty):
            break
        wave, waiting = waiting[: options.wave], waiting[options.wave :]
        yield Branched(chains=len(wave))
        contexts = [request.stage_context(f"fork-{index}-{fork}") for index, fork in wave]
        sources = [
            _source(request, rendered, descriptions[index], fork, used, most, context)
            for (index, fork), context in zip(wave, contexts, strict=True)
        ]
        running = len(wave)
        with request.deadline.aborts(*(context.request_id for context in contexts)):
            async with aclosing(merge(sources)) as arrivals:
                async for source, sample in arrivals:
                    index, fork = wave[source]
                    sample = replace(sample, index=fork)
                    chain = read_chain(request, sample, descriptions[index])
                    del pending[index, fork]
                    running -= 1
                    chains.append(chain)
                    samples.append(sample)
                    yield ChainDone(chain)
                    if outcome or not options.early_stop or not pending or request.deadline.passed:
                        continue
                    if voting.certain(chains, options.aggregate, options.certainty) or voting.decided(
                        chains, list(pending.values()), options.aggregate
                    ):
                        outcome = voting.tally(chains, options.aggregate)
                        assert outcome is not None, "a decided vote has an answer"
                        yield Decided(outcome.vote, outcome.representative, running)
                        await asyncio.gather(*(request.engine.abort(each.request_id) for each in contexts))
    usage = usage_of("fork", chains, time.perf_counter() - started)
    yield SampledChains(tuple(chains), tuple(samples), request.rendered, usage, outcome)


def _source(
    request: Request,
    rendered: Rendered,
    description: Description,
    fork: int,
    used: int,
    chains: int,
    context: RequestContext,
) -> AsyncGenerator[Sample, None]:
    sampling = replace(chain_sampling(request, description, used, chains), first_branch=fork)
    suffix = (*request.opening, *description.token_ids)
    return request.engine.generate(rendered, suffix, 1, sampling, context)
