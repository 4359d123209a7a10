"""Fallback stage: where no description is usable, one ordinary answer to the conversation as it came."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from mirl_core.algorithm.budget import chain_limit
from mirl_core.engines.base import Sample, derive_seed
from mirl_core.pipeline.chains import SampledChains, read_chain, usage_of
from mirl_core.pipeline.events import ChainDone
from mirl_core.pipeline.request import Request
from mirl_core.types import Chain

__all__ = ["plain"]


async def plain(request: Request, used: int) -> AsyncGenerator[ChainDone | SampledChains, None]:
    """Yield the chain, and last the stage's result.

    Args:
        used: what the request has sampled so far; tokens.
    """
    started = time.perf_counter()
    rendered = request.rendered
    if request.settings.instruction:
        rendered = await request.engine.render(request.conversation, request.context)
    structure = None if request.form is None else request.form.alone()
    limit = chain_limit(request.options, request.sampling.max_tokens, used, chains=1)
    sampling = replace(
        request.sampling,
        max_tokens=request.within_context_length(limit, 0, rendered),
        stop=(request.settings.tags.answer[1],) if structure is None else (),
        structure=structure,
        seed=derive_seed(request.sampling.seed, "plain"),
    )
    context = request.stage_context("plain")
    chains: list[Chain] = []
    samples: list[Sample] = []
    with request.deadline.aborts(context.request_id):
        source = request.engine.generate(rendered, (), 1, sampling, context)
        async with aclosing(source):
            async for sample in source:
                chain = read_chain(request, sample, None)
                chains.append(chain)
                samples.append(sample)
                yield ChainDone(chain)
    usage = usage_of("plain", chains, time.perf_counter() - started)
    yield SampledChains(tuple(chains), tuple(samples), rendered, usage)
