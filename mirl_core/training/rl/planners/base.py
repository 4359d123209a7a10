"""The rollouts of one step: the pipeline on every question, with every sampled token kept.

A planner's result is a function of (recipe seed, step, question) as far as the engine is repeatable; with
`rollout.serial` questions run one after the other, and nothing runs beside them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sample, Sampling, derive_seed
from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.engines.wrappers.recording import RecordingEngine
from mirl_core.errors import RequestError
from mirl_core.pipeline.events import Finished, Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.questions import Question, is_right
from mirl_core.training.rl.planners.rows import Plan, Segment, TrainingRow, Trajectory
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.rewards import Judge, Judged
from mirl_core.training.rl.rewards.mi import is_invalid
from mirl_core.training.rl.rewards.mi_scorers import MIScorer, ScoredMI
from mirl_core.types import Chain, Conversation, Description, Result

logger = logging.getLogger(__name__)

BranchKey = tuple[int, int | None]
"""Index of description and fork; fork None stands for the description itself."""


class Planner(Protocol):
    """A maker of a step's rows."""

    async def plan(self, questions: Sequence[Question], step: int) -> Plan:
        """Roll out all questions, compute rewards, and compare them.

        A question that the engine refuses (a prompt that is too long) is left out, logged and counted.

        Raises:
            RequestError: every question was refused.
            EngineError: the engine failed.
            ConfigError: a question's picture can't be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class JudgedChain:
    """One chain of a kept description, with its reward."""

    chain: Chain
    sample: Sample
    judged: Judged
    right: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """The samples and rewards of one question."""

    question: Question
    prompt: Conversation
    """The prompt of the descriptions, instruction and images included."""
    opening: tuple[int, ...]
    """Token ids of the description's opening tag, which is prefilled."""
    result: Result
    descriptions: tuple[tuple[Description, Sample], ...]
    chains: tuple[JudgedChain, ...]
    """Chains of kept descriptions, by description and fork; without a fallback's plain chain."""
    scored: Mapping[int, ScoredMI]
    """By the description's index, for valid descriptions where there is a scorer."""
    seconds: Mapping[str, float]
    """Durations that the pipeline doesn't measure: `mi` (the scorer's) and `judge`."""

    @property
    def described(self) -> dict[int, Sample]:
        """Each description's sample, by its index."""
        return {description.index: sample for description, sample in self.descriptions}

    def trajectory(self, chain: JudgedChain, segment: Segment, reward: float, advantage: float) -> Trajectory:
        """Return a whole trajectory for the log."""
        description_text = next(
            description.text
            for description, _ in self.descriptions
            if description.index == chain.chain.description
        )
        return Trajectory(
            question=self.question.key,
            text=f"{description_text}\n{chain.chain.text}",
            segment=segment,
            reward=reward,
            advantage=advantage,
            parts=chain.judged.parts,
            answer=chain.chain.answer,
            right=chain.right,
        )

    def row(
        self,
        parts: Iterable[tuple[Sample, bool]],
        advantage: float,
        segment: Segment,
        group: str,
        *,
        prompt: Conversation | None = None,
    ) -> TrainingRow:
        """Return the opening tag and `parts` as one completion; parts marked True are in the loss."""
        ids, mask, logprobs = list(self.opening), [False] * len(self.opening), [0.0] * len(self.opening)
        for sample, trained in parts:
            ids += sample.token_ids
            mask += [trained] * len(sample.token_ids)
            logprobs += sample.logprobs if trained else [0.0] * len(sample.token_ids)
        return TrainingRow(
            prompt=prompt or self.prompt,
            completion_ids=tuple(ids),
            loss_mask=tuple(mask),
            sampler_logprobs=tuple(logprobs),
            advantage=advantage,
            segment=segment,
            group=f"{self.question.key}/{group}",
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Rewards that are compared with each other, and their advantages."""

    of: Literal["description", "answer"]
    members: tuple[BranchKey, ...]
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    name: str
    """Last part of its rows' `group`."""

    @property
    def flat(self) -> bool:
        """Whether all advantages are 0."""
        return not any(self.advantages)


@dataclass(frozen=True, slots=True)
class Draft:
    """A planner's result for one question."""

    groups: tuple[Group, ...]
    rows: tuple[TrainingRow, ...]
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True, slots=True)
class RolloutSampler:
    """Sampler of the rollouts of a step's questions.

    Args:
        options: of every pipeline run; the model's own options in the engine are not used.
        scorer: computes the MI of the valid descriptions, while chains are sampled.
    """

    engine: Engine
    settings: ModelSettings
    recipe: RLRecipe
    options: MIRLOptions
    judge: Judge
    scorer: MIScorer | None = None
    _judging: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def sample(self, questions: Sequence[Question], step: int) -> list[Rollout]:
        """Return the rollouts of the questions that the engine accepts, in their order. Raises as
        `Planner.plan`."""
        self.judge.start_step()
        if self.recipe.rollout.serial:
            outcomes = [await self._attempt(question, step) for question in questions]
        else:
            outcomes = await gather_or_cancel([self._attempt(question, step) for question in questions])
        refusals = [outcome for outcome in outcomes if isinstance(outcome, RequestError)]
        if questions and len(refusals) == len(questions):
            raise refusals[0]
        return [outcome for outcome in outcomes if isinstance(outcome, Rollout)]

    async def _attempt(self, question: Question, step: int) -> Rollout | RequestError:
        try:
            return await self._rollout(question, step)
        except RequestError as error:
            logger.warning("question %s is left out of step %d: %s", question.key, step, error)
            return error

    async def _rollout(self, question: Question, step: int) -> Rollout:
        conversation = await asyncio.to_thread(question.conversation)
        recording = RecordingEngine(self.engine)
        context = RequestContext(f"rl-{step}-{question.key}")
        sampling = Sampling(
            max_tokens=self.recipe.rollout.max_tokens,
            temperature=self.recipe.rollout.temperature,
            seed=derive_seed(self.recipe.seed, step, question.key),
        )
        prompt = conversation.with_instruction(self.settings.instruction)
        opening = recording.encode(self.settings.tags.description[0])
        scoring: asyncio.Task[tuple[dict[int, ScoredMI], float]] | None = None
        result: Result | None = None
        events = Pipeline(recording, self.settings).run(conversation, self.options, sampling, context)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Gated) and self.scorer is not None:
                        scoring = asyncio.create_task(
                            self._score(self.scorer, recording, prompt, opening, event.descriptions, context)
                        )
                        if self.recipe.rollout.serial:
                            await scoring
                    elif isinstance(event, Finished):
                        result = event.result
            scored, seconds = await scoring if scoring is not None else ({}, 0.0)
        finally:
            if scoring is not None:
                scoring.cancel()
                await asyncio.gather(scoring, return_exceptions=True)
        assert result is not None, "the pipeline always finishes"
        # Verifiers may be slow, and a user's verifier need not be thread-safe.
        async with self._judging:
            started = time.perf_counter()
            chains = await asyncio.to_thread(self._judged, question, result, recording, context)
            judging = time.perf_counter() - started
        return Rollout(
            question=question,
            prompt=prompt,
            opening=opening,
            result=result,
            descriptions=tuple(
                (description, recording.sample(context, "describe", description.index))
                for description in result.descriptions
            ),
            chains=chains,
            scored=scored,
            seconds={"mi": seconds, "judge": judging},
        )

    async def _score(
        self,
        scorer: MIScorer,
        recording: RecordingEngine,
        prompt: Conversation,
        opening: tuple[int, ...],
        descriptions: Sequence[Description],
        context: RequestContext,
    ) -> tuple[dict[int, ScoredMI], float]:
        """Return the MI of the valid descriptions by index, and the seconds that it took."""
        started = time.perf_counter()
        valid = [
            description for description in descriptions if not is_invalid(description, self.recipe.rewards.mi)
        ]
        if not valid:
            return {}, 0.0
        samples = [recording.sample(context, "describe", description.index) for description in valid]
        scored = await scorer.score(
            prompt,
            opening,
            [description.token_ids[: description.content_tokens] for description in valid],
            [
                sample.logprobs[: description.content_tokens]
                for description, sample in zip(valid, samples, strict=True)
            ],
            RequestContext(f"{context.request_id}-mi"),
        )
        by_index = {description.index: score for description, score in zip(valid, scored, strict=True)}
        return by_index, time.perf_counter() - started

    def _judged(
        self, question: Question, result: Result, recording: RecordingEngine, context: RequestContext
    ) -> tuple[JudgedChain, ...]:
        """Return the chains in the order of description and fork, not of their completion."""
        chains = sorted(
            (chain for chain in result.chains if chain.description is not None),
            key=lambda chain: (chain.description, chain.fork),
        )
        return tuple(
            JudgedChain(
                chain,
                recording.sample(context, f"fork-{chain.description}", chain.fork),
                self.judge.judge(question, chain),
                is_right(question, chain.answer),
            )
            for chain in chains
        )
