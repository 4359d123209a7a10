"""Third stage: continue the kept descriptions into m reasoning chains each, until the vote is decided.

All chains start at once, or in two waves, the best descriptions' first. A chain samples the same either way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import Outcome, Pending
from mirl_core.algorithm.gates import in_waves
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext, Sample
from mirl_core.pipeline.chains import SampledChains, chain_prompt, chain_sampling, read_chain, usage_of
from mirl_core.pipeline.events import Branched, ChainDone, Decided
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.streams import merge
from mirl_core.types import Chain, Description

__all__ = ["fork"]


@dataclass(frozen=True, slots=True)
class _Call:
    """An engine call: neighbouring forks of a description, from `first` on."""

    description: Description
    first: int
    chains: int


async def fork(
    request: Request, kept: Sequence[Description], used: int
) -> AsyncGenerator[Branched | ChainDone | Decided | SampledChains, None]:
    """Yield each chain as it finishes, the decision if it comes early, and last the stage's result.

    Args:
        kept: the descriptions to continue.
        used: what the request has sampled so far; tokens.
    """
    started = time.perf_counter()
    options = request.options
    rendered = await chain_prompt(request)
    pending = {
        (description.index, number): Pending(description.index, number, description.score)
        for description in kept
        for number in range(options.forks)
    }
    most = len(pending)
    chains: list[Chain] = []
    samples: list[Sample] = []
    outcome: Outcome | None = None
    for wave in _waves(kept, options):
        if outcome is not None or request.deadline.passed or _certain(chains, options):
            break
        running = sum(call.chains for call in wave)
        if options.waves:
            yield Branched(chains=running)
        contexts = [_context(request, call) for call in wave]
        sources = [
            request.engine.generate(
                rendered,
                (*request.opening, *call.description.token_ids),
                call.chains,
                replace(chain_sampling(request, call.description, used, most), first_branch=call.first),
                context,
            )
            for call, context in zip(wave, contexts, strict=True)
        ]
        with request.deadline.aborts(*(context.request_id for context in contexts)):
            async with aclosing(merge(sources)) as arrivals:
                async for source, arrived in arrivals:
                    call = wave[source]
                    sample = replace(arrived, index=call.first + arrived.index)
                    chain = read_chain(request, sample, call.description)
                    del pending[call.description.index, sample.index]
                    running -= 1
                    chains.append(chain)
                    samples.append(sample)
                    yield ChainDone(chain)
                    if outcome or not options.early_stop or not pending or request.deadline.passed:
                        continue
                    if _certain(chains, options) or voting.decided(
                        chains, list(pending.values()), options.aggregate
                    ):
                        outcome = voting.tally(chains, options.aggregate)
                        assert outcome is not None, "a decided vote has an answer"
                        yield Decided(outcome.vote, outcome.representative, running)
                        await asyncio.gather(*(request.engine.abort(each.request_id) for each in contexts))
    usage = usage_of("fork", chains, time.perf_counter() - started)
    yield SampledChains(tuple(chains), tuple(samples), request.rendered, usage, outcome)


def _waves(kept: Sequence[Description], options: MIRLOptions) -> list[list[_Call]]:
    """Return the engine calls of each wave; a single wave where all chains start at once."""
    if not options.waves:
        return [[_Call(description, 0, options.forks) for description in kept]]
    by_index = {description.index: description for description in kept}
    scores = {index: description.score for index, description in by_index.items()}
    return [
        [_Call(by_index[index], numbers[0], len(numbers)) for index, numbers in _by_description(wave).items()]
        for wave in in_waves(scores, options.forks, options.wave)
    ]


def _by_description(wave: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    """Return the forks of each description, neighbours in their order."""
    forks: dict[int, list[int]] = {}
    for index, number in wave:
        forks.setdefault(index, []).append(number)
    return forks


def _certain(chains: Sequence[Chain], options: MIRLOptions) -> bool:
    """Return whether the vote is certain enough to start no further wave."""
    return options.waves and voting.certain(chains, options.aggregate, options.certainty)


def _context(request: Request, call: _Call) -> RequestContext:
    name = f"fork-{call.description.index}"
    return request.stage_context(f"{name}-{call.first}" if request.options.waves else name)
