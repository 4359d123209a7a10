"""First stage: sample N descriptions of the image."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from mirl_core.engines.base import Sample
from mirl_core.pipeline.events import Described
from mirl_core.pipeline.request import Request
from mirl_core.types import Description, StageUsage

__all__ = ["SampledDescriptions", "describe"]


@dataclass(frozen=True, slots=True)
class SampledDescriptions:
    """The stage's result."""

    descriptions: tuple[Description, ...]
    """Ordered by index; neither scored nor gated."""
    logprobs: Mapping[int, tuple[float, ...]]
    """By index, raw log p of each sampled token given the image; nats."""
    usage: StageUsage

    @property
    def any_usable(self) -> bool:
        """Whether at least one description may go on."""
        return any(description.reason is None for description in self.descriptions)


async def describe(request: Request) -> AsyncGenerator[Described | SampledDescriptions, None]:
    """Yield each description as it is sampled, and last the stage's result.

    Raises:
        ContextLengthError: the prompt leaves no token for a description.
        DeadlineError, DrainingError: the deadline passed.
    """
    started = time.perf_counter()
    sampling = request.description_sampling()
    descriptions: dict[int, Description] = {}
    samples: dict[int, Sample] = {}
    context = request.stage_context("describe")
    with request.deadline.aborts(context.request_id):
        source = request.engine.generate(
            request.rendered, request.opening, request.options.descriptions, sampling, context
        )
        async with aclosing(source):
            async for sample in source:
                description = request.read_description(sample)
                samples[sample.index] = sample
                descriptions[sample.index] = description
                yield Described(description, len(sample.token_ids))
    if request.deadline.passed:
        raise request.deadline.error("while describing the image")
    yield SampledDescriptions(
        descriptions=tuple(descriptions[index] for index in sorted(descriptions)),
        logprobs={index: sample.logprobs for index, sample in samples.items()},
        usage=StageUsage(
            stage="describe",
            sequences=len(samples),
            generated_tokens=sum(len(sample.token_ids) for sample in samples.values()),
            seconds=time.perf_counter() - started,
        ),
    )
