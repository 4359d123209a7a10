"""Last stage: the answer that the vote gives, with its evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mirl_core.algorithm.aggregators import Outcome
from mirl_core.algorithm.answers.tokens import answer_tokens
from mirl_core.algorithm.confidence import UNFAMILIAR, Confidence, reported, why_uncalibrated
from mirl_core.pipeline.chains import SampledChains
from mirl_core.pipeline.request import Request
from mirl_core.types import Chain, ContentToken, Description, Result, StageUsage

__all__ = ["make_result"]

CUT_SHORT = "the deadline cut the vote short"
HELD_TO_FORM = "answers were held to a form"
UNFAMILIAR_REQUEST = "The picture or the question may be unlike what the model knows."
OWES_NOTHING = "The answer's description owes nothing to the image"


async def make_result(
    request: Request,
    descriptions: tuple[Description, ...],
    sampled: SampledChains,
    outcome: Outcome | None,
    stages: tuple[StageUsage, ...],
    *,
    mi_weight: float | None = None,
    fallback: str | None = None,
) -> Result:
    """Return the vote over the chains that finished, with its evidence.

    Args:
        descriptions: all of them, gated unless the request fell back.
        outcome: None where no chain has an answer.
        stages: what each stage cost, in order.
        mi_weight: λ of the descriptions' `mi`.
        fallback: why the gate was not used.

    Raises:
        DeadlineError, DrainingError: the deadline passed and no chain gave an answer.
    """
    partial = request.deadline.passed
    if outcome is None and partial:
        raise request.deadline.error("before any chain had an answer")
    representative = outcome.representative if outcome else _furthest(sampled.chains)
    description = next((item for item in descriptions if item.index == representative.description), None)
    confidence = _confidence(request, outcome, descriptions)
    return Result(
        content=representative.answer or "",
        reasoning=representative.reasoning,
        finish_reason=representative.finish_reason,
        representative=representative,
        description=description,
        descriptions=descriptions,
        chains=sampled.chains,
        vote=outcome.vote if outcome else None,
        confidence=confidence.value,
        margin=_margin(description, descriptions),
        prompt_tokens=sampled.rendered.prompt_tokens,
        stages=stages,
        aggregation=outcome.aggregation if outcome else "best",
        partial=partial,
        fallback=fallback,
        mi_weight=mi_weight,
        calibrated=confidence.reason is None,
        uncalibrated=confidence.reason,
        warnings=_warnings(description, confidence),
        content_tokens=await _content_tokens(request, representative, sampled),
    )


def _furthest(chains: Sequence[Chain]) -> Chain:
    """Return the best description's chain: where all chains were cut off, it shows how far they came."""
    return min(chains, key=lambda chain: (-(chain.score or 0.0), chain.fork))


def _confidence(request: Request, outcome: Outcome | None, descriptions: Sequence[Description]) -> Confidence:
    """Return the reported confidence."""
    # No calibration is fitted on votes that a deadline cut short, or on answers held to a form.
    reason = why_uncalibrated(request.settings, request.options, request.sampling)
    if reason is None and request.deadline.passed:
        reason = CUT_SHORT
    elif reason is None and request.form is not None:
        reason = HELD_TO_FORM
    calibration = request.settings.calibration if reason is None else None
    return reported(outcome.confidence if outcome else None, descriptions, calibration, reason or "")


def _warnings(description: Description | None, confidence: Confidence) -> tuple[str, ...]:
    """Return what a reader of the answer should know before they trust it."""
    warnings = [UNFAMILIAR_REQUEST] if confidence.reason == UNFAMILIAR else []
    if description is not None and description.marginal is not None:
        gained = description.logprob - description.marginal
        if gained <= 0:
            warnings.append(f"{OWES_NOTHING} ({gained:+.2f} nats)")
    return tuple(warnings)


def _margin(winner: Description | None, descriptions: Sequence[Description]) -> float | None:
    """Return the winner's gate score above the best description with another text; nats."""
    if winner is None or winner.score is None:
        return None
    others = [item.score for item in descriptions if item.score is not None and item.text != winner.text]
    return winner.score - max(others) if others else None


async def _content_tokens(
    request: Request, chain: Chain, sampled: SampledChains
) -> tuple[ContentToken, ...] | None:
    if request.sampling.top_logprobs is None:
        return None
    # In a thread: every token takes a decoding.
    return await asyncio.to_thread(answer_tokens, chain, sampled.sample_of(chain), request.engine)
