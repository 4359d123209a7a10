"""Second stage: score the usable descriptions by mutual information, and keep the best k."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mirl_core.algorithm.budget import scored_tokens
from mirl_core.algorithm.gates import select
from mirl_core.algorithm.mi.estimators import ESTIMATORS, make_estimator
from mirl_core.algorithm.mi.scoring import image_free_logprobs, measure, needs_marginals
from mirl_core.engines.base import derive_seed
from mirl_core.pipeline.gated.describe import SampledDescriptions
from mirl_core.pipeline.request import Request
from mirl_core.types import Description, StageUsage

__all__ = ["GatedDescriptions", "score_and_gate"]


@dataclass(frozen=True, slots=True)
class GatedDescriptions:
    """The stage's result."""

    descriptions: tuple[Description, ...]
    """All of them, each kept or with the reason why not."""
    mi_weight: float | None
    """λ of every description's `mi`, `auto` resolved; None where no description has an `mi`."""
    usage: StageUsage

    @property
    def kept(self) -> tuple[Description, ...]:
        """The descriptions that go on."""
        return tuple(description for description in self.descriptions if description.kept)


async def score_and_gate(request: Request, sampled: SampledDescriptions) -> GatedDescriptions:
    """Return the descriptions of `sampled` with their MI, where it is needed, and the gate's decision.

    Raises:
        RequestError: the estimator needs reference images, and the model has none.
    """
    started = time.perf_counter()
    options = request.options
    # Identical descriptions are scored once and keep their multiplicity in the ranking.
    contents = sorted(
        {
            description.token_ids[: description.content_tokens]
            for description in sampled.descriptions
            if description.reason is None
        }
    )
    marginals: dict[tuple[int, ...], tuple[float, ...]] = {}
    passes = 0
    if needs_marginals(options):
        logprobs = await image_free_logprobs(
            request.engine,
            make_estimator(options.estimator, request.references),
            request.prompt,
            request.opening,
            contents,
            request.stage_context("score"),
        )
        marginals = dict(zip(contents, logprobs, strict=True))
        passes = ESTIMATORS[options.estimator].passes(len(request.references))
    measured, mi_weight = measure(
        sampled.descriptions, sampled.logprobs, marginals, options, request.engine.decode
    )
    return GatedDescriptions(
        descriptions=select(measured, options, derive_seed(request.sampling.seed, "gate")),
        mi_weight=mi_weight,
        usage=StageUsage(
            stage="score",
            sequences=len(marginals),
            scored_tokens=scored_tokens(passes, len(request.opening), map(len, contents)),
            seconds=time.perf_counter() - started,
        ),
    )
