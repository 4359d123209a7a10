"""Reasoning chains: a sample read as a chain, and the result of the stage that samples chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mirl_core.algorithm import answers
from mirl_core.algorithm.aggregators import Outcome
from mirl_core.algorithm.budget import chain_limit
from mirl_core.algorithm.segments import cut_at_stop
from mirl_core.engines.base import Rendered, Sample, Sampling, derive_seed
from mirl_core.pipeline.request import Request
from mirl_core.types import Chain, Description, Stage, StageUsage

__all__ = ["SampledChains", "chain_prompt", "chain_sampling", "read_chain", "usage_of"]


@dataclass(frozen=True, slots=True)
class SampledChains:
    """The result of the stages `fork` and `plain`."""

    chains: tuple[Chain, ...]
    """In the order in which they finished."""
    samples: tuple[Sample, ...]
    """What each chain was read from."""
    rendered: Rendered
    """The prompt that the answer is reported for."""
    usage: StageUsage
    outcome: Outcome | None = None
    """The winner, where it was decided before all chains had finished."""

    def sample_of(self, chain: Chain) -> Sample:
        """Return what `chain` was read from."""
        return self.samples[self.chains.index(chain)]


async def chain_prompt(request: Request) -> Rendered:
    """Return the prompt that chains continue: with the images, or without where the options drop them."""
    if request.options.fork_image == "keep":
        return request.rendered
    return await request.engine.render(request.prompt.with_images(None), request.context)


def chain_sampling(request: Request, description: Description, used: int, chains: int) -> Sampling:
    """Return the sampling settings of the chains that continue a description.

    Args:
        used: what the request has sampled so far; tokens.
        chains: how many chains share what is left of the request's tokens.
    """
    tags = request.settings.tags
    left = request.sampling.max_tokens - len(description.token_ids)
    limit = chain_limit(request.options, left, used, chains)
    suffix_tokens = len(request.opening) + len(description.token_ids)
    return replace(
        request.sampling,
        max_tokens=request.within_context_length(limit, suffix_tokens),
        stop=(tags.answer[1],),
        structure=None if request.form is None else request.form.after_description(tags),
        seed=derive_seed(request.sampling.seed, "fork", description.index),
    )


def read_chain(request: Request, sample: Sample, description: Description | None) -> Chain:
    """Return the chain that `sample` spells.

    Args:
        description: what the chain continues; None: plain generation.
    """
    text = request.engine.decode(sample.token_ids)
    tags, finished = request.settings.tags, sample.finish_reason == "stop"
    if request.form is None:
        extract = answers.locate(text, tags, finished)
    else:
        extract = request.form.read(text, tags, finished, alone=description is None)
    answer = extract.answer
    if answer is not None and not extract.calls:
        answer = cut_at_stop(answer, request.sampling.stop)
    return Chain(
        description=description.index if description else None,
        fork=sample.index,
        text=text,
        reasoning=extract.reasoning,
        answer=answer,
        tokens=len(sample.token_ids),
        finish_reason=sample.finish_reason,
        score=description.score if description else None,
        start=extract.start,
        calls=extract.calls,
    )


def usage_of(stage: Stage, chains: Sequence[Chain], seconds: float) -> StageUsage:
    """Return the usage of a stage that sampled `chains` in `seconds`."""
    return StageUsage(stage, len(chains), sum(chain.tokens for chain in chains), 0, seconds)
