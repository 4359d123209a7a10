"""Sampling of one question for the bank: the real pipeline, every description kept and every call recorded.

The pipeline makes the bank's samples, so they have its prompts, tags, seeds and fates: a live run with the
same seed requests a part of the same branches from the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from mirl_core.algorithm.mi.estimators import ESTIMATORS, make_estimator
from mirl_core.algorithm.mi.scoring import image_free_logprobs
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sampling
from mirl_core.engines.wrappers.recording import RecordingEngine
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.judge import Judge, Marginals, Run
from mirl_core.evaluation.bank.plan import BankPlan, temperature_key
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.content import content_digest
from mirl_core.tasks.questions import Question, question_seed
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["sample_question"]

MOST_VOTES = 16
"""Most chains of a decoded description: the product's limit of `prior_votes`."""


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
    estimators = (*plan.estimators, plan.contrast_estimator)
    needed = any(name and ESTIMATORS[name].needs_references for name in estimators)
    if needed and len(references) != plan.references:
        raise ConfigError(
            f"the bank's plan has {plan.references} reference pictures, but {len(references)} were given",
            param="references",
        )
    conversation = await asyncio.to_thread(question.conversation)
    content = await asyncio.to_thread(content_digest, question)
    recorded = RecordingEngine(engine)
    context = RequestContext(f"bank-{data}-{question.key}")
    assert plan.temperature is not None, "resolved above"
    sampling = Sampling(
        max_tokens=plan.max_tokens,
        temperature=plan.temperature,
        seed=question_seed(plan.seed, question.key),
        alternatives=plan.alternatives,
    )
    runs = _Runs(recorded, settings, conversation, plan, references, context)
    # One stage after the other: a failure leaves nothing running, and other questions keep the engine busy.
    sampled = await runs.trajectories("", sampling, plan.descriptions, plan.forks)
    greedy = await runs.trajectories("-greedy", replace(sampling, temperature=0.0), 1, 1)
    # DeepConf votes over the samples at the plan's temperature alone.
    unranked = replace(sampling, alternatives=0)
    decoded = await runs.decoded("-decoded", unranked) if plan.contrast else None
    at_temperatures = {
        temperature_key(temperature): await runs.trajectories(
            f"-temperature-{temperature_key(temperature)}",
            replace(unranked, temperature=temperature),
            plan.descriptions,
            1,
        )
        for temperature in plan.temperatures
    }
    marginals = await runs.marginals([sampled, *([decoded] if decoded else [])])

    def judged() -> BankedQuestion:
        judge = Judge(question, recorded, marginals)
        return BankedQuestion(
            key=question.key,
            data=data,
            family=question.family,
            question=question.text,
            content=content,
            truth=question.answer,
            clusters=question.clusters or (question.key,),
            descriptions=judge.descriptions(sampled),
            chains=judge.chains(sampled),
            greedy=judge.greedy(greedy),
            plain_fallback=judge.fallback(sampled) or (judge.fallback(decoded) if decoded else None),
            at_temperatures={key: judge.trajectories(run) for key, run in at_temperatures.items()},
            **(judge.decoded(decoded) if decoded else {}),
        )

    # Equivalence of mathematical answers may take a while, and other questions are sampled meanwhile.
    return await asyncio.to_thread(judged)


class _Runs:
    """Runs of the pipeline on one question."""

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        conversation: Conversation,
        plan: BankPlan,
        references: Sequence[Image],
        context: RequestContext,
    ) -> None:
        assert plan.description_tokens is not None, "plans are resolved first"
        self._engine = engine
        self._settings = settings
        self._conversation = conversation
        self._plan = plan
        self._references = references
        self._context = context
        self._options = MIRLOptions(
            gate="none",
            fork_image=plan.fork_image,
            description_tokens=plan.description_tokens,
            early_stop=False,
            # The vote isn't used, and `best` compares no answers.
            aggregate="best",
        )

    async def trajectories(self, name: str, sampling: Sampling, descriptions: int, forks: int) -> Run:
        """Sample trajectories by the pipeline without gate and without early stop.

        Args:
            name: of the run, unique among the question's.
        """
        options = self._options.model_copy(update={"descriptions": descriptions, "forks": forks})
        return await self._run(name, options, sampling)

    async def decoded(self, name: str, sampling: Sampling) -> Run:
        """Decode the plan's descriptions by the pipeline, with as many chains of each as samples have."""
        plan = self._plan
        options = self._options.model_dump() | {
            "contrast": plan.contrast,
            "prior_votes": (min(plan.forks, MOST_VOTES),) * len(plan.contrast),
            "share_chains": False,
            "descriptions": 0,
            "estimator": plan.contrast_estimator,
            "plausibility": plan.plausibility,
            "lookahead": plan.lookahead,
            "draft_tokens": plan.draft_tokens,
        }
        return await self._run(name, MIRLOptions.model_validate(options), sampling)

    async def marginals(self, runs: Sequence[Run]) -> Marginals:
        """Score every distinct usable description of the runs under the plan's estimators."""
        contents = sorted(
            {
                description.token_ids[: description.content_tokens]
                for run in runs
                for description in run.result.descriptions
                # The gate `none` keeps all usable descriptions, and so do decodes.
                if description.reason is None
            }
        )
        if not contents:
            return {}
        prompt = self._conversation.with_instruction(self._settings.instruction)
        opening = self._engine.encode(self._settings.tags.description[0])
        marginals: dict[tuple[int, ...], dict[str, tuple[float, ...]]] = {content: {} for content in contents}
        for name in self._plan.estimators:
            context = replace(self._context, request_id=f"{self._context.request_id}-score-{name}")
            estimator = make_estimator(name, self._references)
            scores = await image_free_logprobs(self._engine, estimator, prompt, opening, contents, context)
            for content, values in zip(contents, scores, strict=True):
                marginals[content][name] = values
        return marginals

    async def _run(self, name: str, options: MIRLOptions, sampling: Sampling) -> Run:
        context = replace(self._context, request_id=f"{self._context.request_id}{name}")
        pipeline = Pipeline(self._engine, self._settings, self._references)
        async with aclosing(pipeline.run(self._conversation, options, sampling, context)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return Run(event.result, context)
        raise AssertionError("the pipeline always finishes")
