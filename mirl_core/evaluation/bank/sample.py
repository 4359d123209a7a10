"""Sampling of one question for the bank: the real pipeline, every description kept and every call recorded.

The pipeline makes the bank's samples, so they have its prompts, tags, seeds and fates: a live run with the
same seed requests a part of the same branches from the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mirl_core.algorithm.mi.estimators import ESTIMATORS, make_estimator
from mirl_core.algorithm.mi.scoring import image_free_logprobs
from mirl_core.config import EstimatorName, MIRLOptions, ModelSettings, Settings
from mirl_core.engines.base import Engine, RequestContext, Sample, Sampling
from mirl_core.engines.wrappers.recording import RecordingEngine
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedChain, BankedDescription, BankedQuestion
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.questions import Question, is_right, question_seed
from mirl_core.types import Chain, Conversation, Description, Result

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["WINDOW", "BankPlan", "sample_question"]

WINDOW = 16
"""Tokens in a group of the lowest group confidence: DeepConf's 2,048 scaled to chains of dozens of tokens."""


class BankPlan(Settings):
    """The samples that a bank holds of a question. Two runs with equal plans on one model fill one bank."""

    descriptions: Annotated[int, Field(ge=1)] = 16
    """Descriptions sampled per question."""
    forks: Annotated[int, Field(ge=1)] = 3
    """Chains per usable description."""
    estimators: tuple[EstimatorName, ...] = ("text", "blank")
    """Estimators of the image-free term; every usable description is scored under each."""
    references: Annotated[int, Field(ge=0)] = 0
    """Number of pictures of the `reference` estimator; 0: it is left out."""
    seed: int = 0
    """Seed of the run; every question's branches are derived from it and the question's key."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Temperature of descriptions and chains; None: the model's setting."""
    description_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest description, in tokens; None: the model's setting."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest trajectory, description and chain together, in tokens."""
    fork_image: Literal["keep", "drop"] = "keep"
    """Whether chains see the picture."""
    alternatives: Annotated[int, Field(ge=0)] = 20
    """Number of the likeliest tokens in DeepConf's confidence; 0: it is left out."""

    def resolved(self, settings: ModelSettings) -> BankPlan:
        """Return the plan with the model's settings in place of None."""
        return self.model_copy(
            update={
                "temperature": self.temperature if self.temperature is not None else settings.temperature,
                "description_tokens": self.description_tokens or settings.options.description_tokens,
                "estimators": tuple(
                    name for name in self.estimators if ESTIMATORS[name].passes(self.references)
                ),
            }
        )


async def sample_question(
    engine: Engine,
    settings: ModelSettings,
    question: Question,
    plan: BankPlan,
    references: Sequence[Image] = (),
    *,
    data: str = "",
) -> BankedQuestion:
    """Sample, score and judge everything that the bank keeps of one question.

    Args:
        references: the pictures of the `reference` estimator, `plan.references` of them; never the question's
            picture.
        data: the data set's name.

    Raises:
        ConfigError: the number of `references` differs from the plan's.
        RequestError, EngineError: the engine refuses the question, or failed.
    """
    plan = plan.resolved(settings)
    needed = any(ESTIMATORS[name].needs_references for name in plan.estimators)
    if needed and len(references) != plan.references:
        raise ConfigError(
            f"the bank's plan has {plan.references} reference pictures, but {len(references)} were given",
            param="references",
        )
    conversation = await asyncio.to_thread(question.conversation)
    recorded = RecordingEngine(engine)
    context = RequestContext(f"bank-{data}-{question.key}")
    assert plan.temperature is not None, "resolved above"
    sampling = Sampling(
        max_tokens=plan.max_tokens,
        temperature=plan.temperature,
        seed=question_seed(plan.seed, question.key),
        alternatives=plan.alternatives,
    )
    result = await _trajectories(recorded, settings, conversation, plan, sampling, context)
    alone = plan.model_copy(update={"descriptions": 1, "forks": 1})
    greedy_context = replace(context, request_id=f"{context.request_id}-greedy")
    # One stage after the other: a failure leaves nothing running, and other questions keep the engine busy.
    greedy = await _trajectories(
        recorded, settings, conversation, alone, replace(sampling, temperature=0.0), greedy_context
    )
    marginals = await _marginals(
        recorded, settings, conversation, plan, references, result.descriptions, context
    )

    def judged() -> BankedQuestion:
        descriptions = tuple(
            _description(
                question, description, recorded.sample(context, "describe", description.index), marginals
            )
            for description in result.descriptions
        )
        chains = [_chain(question, chain, recorded, context) for chain in result.chains]
        (only,) = greedy.descriptions
        return BankedQuestion(
            key=question.key,
            data=data,
            family=question.family,
            question=question.text,
            truth=question.answer,
            clusters=question.clusters or (question.key,),
            descriptions=descriptions,
            chains=()
            if result.fallback
            else tuple(sorted(chains, key=lambda chain: (chain.description, chain.fork))),
            greedy=(
                _description(question, only, recorded.sample(greedy_context, "describe", 0), {}),
                None
                if greedy.fallback
                else replace(_chain(question, greedy.chains[0], recorded, greedy_context), description=-1),
            ),
            plain_fallback=chains[0] if result.fallback else None,
        )

    # Equivalence of mathematical answers may take a while, and other questions are sampled meanwhile.
    return await asyncio.to_thread(judged)


async def _trajectories(
    engine: Engine,
    settings: ModelSettings,
    conversation: Conversation,
    plan: BankPlan,
    sampling: Sampling,
    context: RequestContext,
) -> Result:
    """Sample all trajectories of the plan, by the pipeline without gate and without early stop."""
    assert plan.description_tokens is not None, "plans are resolved first"
    options = MIRLOptions(
        descriptions=plan.descriptions,
        forks=plan.forks,
        gate="none",
        fork_image=plan.fork_image,
        description_tokens=plan.description_tokens,
        early_stop=False,
        # The vote isn't used, and `best` compares no answers.
        aggregate="best",
    )
    async with aclosing(Pipeline(engine, settings).run(conversation, options, sampling, context)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("the pipeline always finishes")


async def _marginals(
    engine: Engine,
    settings: ModelSettings,
    conversation: Conversation,
    plan: BankPlan,
    references: Sequence[Image],
    descriptions: Sequence[Description],
    context: RequestContext,
) -> dict[tuple[int, ...], dict[str, tuple[float, ...]]]:
    """Return content token ids → estimator → nats per token, for every distinct usable description."""
    contents = sorted(
        {
            description.token_ids[: description.content_tokens]
            for description in descriptions
            if _usable(description)
        }
    )
    if not contents:
        return {}
    prompt = conversation.with_instruction(settings.instruction)
    opening = engine.encode(settings.tags.description[0])
    marginals: dict[tuple[int, ...], dict[str, tuple[float, ...]]] = {content: {} for content in contents}
    for name in plan.estimators:
        score_context = replace(context, request_id=f"{context.request_id}-score-{name}")
        estimator = make_estimator(name, references)
        scores = await image_free_logprobs(engine, estimator, prompt, opening, contents, score_context)
        for content, values in zip(contents, scores, strict=True):
            marginals[content][name] = values
    return marginals


def _usable(description: Description) -> bool:
    """Return whether chains may continue the description; the gate `none` keeps all such descriptions."""
    return description.reason is None


def _description(
    question: Question,
    description: Description,
    sample: Sample,
    marginals: dict[tuple[int, ...], dict[str, tuple[float, ...]]],
) -> BankedDescription:
    length = description.content_tokens
    return BankedDescription(
        text=description.text,
        tokens=len(description.token_ids),
        content_tokens=length,
        reason=description.reason,
        logprobs=sample.logprobs[:length],
        marginals=marginals.get(description.token_ids[:length], {}) if _usable(description) else {},
        right=question.describes(description.text) if question.describes else None,
    )


def _chain(
    question: Question, chain: Chain, recorded: RecordingEngine, context: RequestContext
) -> BankedChain:
    if chain.description is None:
        tokens = recorded.sample(context, "plain", chain.fork).confidence
    else:
        before = recorded.sample(context, "describe", chain.description).confidence
        tokens = (*before, *recorded.sample(context, f"fork-{chain.description}", chain.fork).confidence)
    return BankedChain(
        description=-1 if chain.description is None else chain.description,
        fork=chain.fork,
        answer=chain.answer,
        right=is_right(question, chain.answer),
        tokens=chain.tokens,
        finish_reason=chain.finish_reason,
        confidence=sum(tokens) / len(tokens) if tokens else None,
        lowest_confidence=lowest_group(tokens),
    )


def lowest_group(confidence: Sequence[float], window: int = WINDOW) -> float | None:
    """Return the lowest mean over `window` neighbouring tokens, or over all of fewer; nats.

    None without tokens.

    DeepConf's lowest group confidence (Fu et al. 2025, section 3.1), with its windows fully inside the
    trajectory.
    """
    if not confidence:
        return None
    width = min(window, len(confidence))
    total = lowest = sum(confidence[:width])
    for index in range(width, len(confidence)):
        total += confidence[index] - confidence[index - width]
        lowest = min(lowest, total)
    return lowest / width
