"""Describe → score → gate → fork → vote, as one async generator of typed events.

Guarantees, each property-tested in tests/unit/pipeline/test_properties.py:
- every sampled token is counted once in `Result.completion_tokens`, dropped and aborted sequences included;
- nothing runs in the engine once the generator is exhausted, closed or cancelled;
- `Finished` is the last event, and comes once;
- a request's images are rendered once, whatever N, k and m.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mirl_core.algorithm import answers, voting
from mirl_core.algorithm.answers.forms import Form
from mirl_core.algorithm.answers.tokens import answer_tokens
from mirl_core.algorithm.budget import check_budget
from mirl_core.algorithm.confidence import calibration_for, reported
from mirl_core.algorithm.gates import select
from mirl_core.algorithm.mi.estimators import make_estimator
from mirl_core.algorithm.mi.scoring import image_free_logprobs, measure, needs_marginals
from mirl_core.algorithm.segments import cut_at_stop, read_description
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import TOO_LONG, Engine, Rendered, RequestContext, Sample, Sampling, derive_seed
from mirl_core.errors import ContextLengthError
from mirl_core.pipeline.deadline import Deadline
from mirl_core.pipeline.events import (
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Finished,
    Gated,
    Started,
)
from mirl_core.pipeline.streams import merge
from mirl_core.types import Chain, Conversation, Description, Result, Stage, StageUsage

if TYPE_CHECKING:
    from PIL.Image import Image


class Pipeline:
    """The algorithm over one engine. Holds nothing of a request: any number may run at once.

    Args:
        engine: runs the model.
        settings: the model's tags, instruction and defaults.
        references: images for the `reference` estimator; never another request's.
        closing: once it is set, every run ends as at its deadline: with what finished, or a DrainingError.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        references: Sequence[Image] = (),
        closing: asyncio.Event | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.references = tuple(references)
        self.closing = closing

    def over(self, engine: Engine) -> Pipeline:
        """The same pipeline over another engine."""
        return Pipeline(engine, self.settings, self.references, self.closing)

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        """The conversation with the model's instruction to look first: what `run` samples from."""
        return await self.engine.render(conversation.with_instruction(self.settings.instruction), context)

    async def run(
        self,
        conversation: Conversation,
        options: MIRLOptions,
        sampling: Sampling,
        context: RequestContext,
        rendered: Rendered | None = None,
        form: Form | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answer one conversation. `sampling.max_tokens` bounds one trajectory: description plus chain.

        Args:
            rendered: what `render` made of the conversation, for several runs of one; None: it is made here.
            form: what answers must or may be like; the engine has checked that it can see to it.

        Raises:
            RequestError: the options can't be met, or the engine refuses the conversation.
            DeadlineError: `options.timeout` passed before any chain finished.
            DrainingError: `closing` was set before any chain finished.
            EngineError: the engine failed.
        """
        run = _Run(self, conversation, options, sampling, context, rendered, form)
        async with (
            Deadline(options.timeout, self.engine.abort, self.closing) as run.deadline,
            aclosing(run.events()) as events,
        ):
            async for event in events:
                yield event


@dataclass(slots=True)
class _Run:
    """One request's way through the pipeline. Its fields fill up stage by stage."""

    pipeline: Pipeline
    conversation: Conversation
    options: MIRLOptions
    sampling: Sampling
    context: RequestContext
    rendered_before: Rendered | None = None
    form: Form | None = None
    deadline: Deadline = field(init=False)
    rendered: Rendered = field(init=False)
    opening: tuple[int, ...] = ()
    descriptions: tuple[Description, ...] = ()
    samples: dict[int, Sample] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=list)
    chain_samples: list[Sample] = field(default_factory=list)
    stages: list[StageUsage] = field(default_factory=list)
    mi_weight: float | None = None
    outcome: voting.Outcome | None = None
    fallback: str | None = None

    @property
    def engine(self) -> Engine:
        return self.pipeline.engine

    @property
    def prompt(self) -> Conversation:
        """The conversation with the model's instruction to look first."""
        return self.conversation.with_instruction(self.pipeline.settings.instruction)

    async def events(self) -> AsyncGenerator[Event, None]:
        check_budget(self.options)
        self.rendered = self.rendered_before or await self.pipeline.render(self.conversation, self.context)
        self.opening = self.engine.encode(self.pipeline.settings.tags.description[0])
        yield Started(self.rendered.prompt_tokens)
        async with aclosing(self.describe()) as stage:
            async for event in stage:
                yield event
        if any(description.reason is None for description in self.descriptions):
            await self.gate()
            yield Gated(self.descriptions, self.mi_weight, tuple(self.stages))
            following = self.fork()
        else:
            self.fallback = "no usable description"
            yield FellBack(self.fallback, tuple(self.stages))
            following = self.plain()
        async with aclosing(following) as stage:
            async for event in stage:
                yield event
        if self.outcome is None and await asyncio.to_thread(self.decide):
            yield self.decision(outstanding=0)
        result = self.result()
        if self.sampling.top_logprobs is not None:
            chain = result.representative
            sample = self.chain_samples[self.chains.index(chain)]
            # In a thread: it takes a decoding per token.
            tokens = await asyncio.to_thread(answer_tokens, chain, sample, self.engine)
            result = replace(result, content_tokens=tokens)
        yield Finished(result)

    def settled(self, pending: Sequence[voting.Pending]) -> bool:
        """Fix the winner if none of `pending` can change it any more."""
        return voting.decided(self.chains, pending, self.options.aggregate) and self.decide()

    def decide(self) -> bool:
        """Fix the winner by what finished so far; False where no chain gave an answer."""
        self.outcome = voting.tally(self.chains, self.options.aggregate)
        return self.outcome is not None

    def decision(self, outstanding: int) -> Decided:
        assert self.outcome is not None, "decided before it is told"
        return Decided(self.outcome.vote, self.outcome.representative, outstanding)

    async def describe(self) -> AsyncGenerator[Event, None]:
        """Sample N descriptions after the opening tag."""
        started = time.perf_counter()
        options, tags = self.options, self.pipeline.settings.tags
        budget = min(options.description_tokens, self.sampling.max_tokens)
        if options.max_total_tokens is not None:
            budget = min(budget, options.max_total_tokens // (2 * options.descriptions))
        sampling = replace(
            self.sampling,
            max_tokens=self.room(budget, self.opening),
            top_logprobs=None,
            stop=(tags.description[1],),
            seed=derive_seed(self.sampling.seed, "describe"),
        )
        found: dict[int, Description] = {}
        context = self.stage_context("describe")
        with self.deadline.guard(context.request_id):
            source = self.engine.generate(
                self.rendered, self.opening, options.descriptions, sampling, context
            )
            async with aclosing(source):
                async for sample in source:
                    description = read_description(sample, tags, self.engine.decode)
                    if len(sample.token_ids) >= self.sampling.max_tokens and description.reason is None:
                        description = replace(description, reason="truncated")
                    self.samples[sample.index] = sample
                    found[sample.index] = description
                    yield Described(description)
        self.descriptions = tuple(found[index] for index in sorted(found))
        self.note_stage("describe", started, [len(one.token_ids) for one in self.samples.values()])
        if self.deadline.passed:
            raise self.deadline.error("while describing the image")

    async def gate(self) -> None:
        """Score what is usable, then keep the best k."""
        started = time.perf_counter()
        options = self.options
        usable = [description for description in self.descriptions if description.reason is None]
        # Identical descriptions are scored once and keep their multiplicity in the ranking.
        contents = sorted({description.token_ids[: description.content_tokens] for description in usable})
        marginals: dict[tuple[int, ...], tuple[float, ...]] = {}
        scored_tokens = 0
        if needs_marginals(options):
            scores = await image_free_logprobs(
                self.engine,
                make_estimator(options.estimator, self.pipeline.references),
                self.prompt,
                self.opening,
                contents,
                self.stage_context("score"),
            )
            marginals = dict(zip(contents, scores, strict=True))
            variants = len(self.pipeline.references) if options.estimator == "reference" else 1
            scored_tokens = variants * sum(len(self.opening) + len(content) for content in contents)
        logprobs = {index: sample.logprobs for index, sample in self.samples.items()}
        measured, self.mi_weight = measure(self.descriptions, logprobs, marginals, options)
        self.descriptions = select(measured, options, derive_seed(self.sampling.seed, "gate"))
        self.stages.append(
            StageUsage("score", len(marginals), 0, scored_tokens, time.perf_counter() - started)
        )

    async def fork(self) -> AsyncGenerator[Event, None]:
        """Continue every kept description into m chains; stop when the vote is decided."""
        started = time.perf_counter()
        options, tags = self.options, self.pipeline.settings.tags
        kept = [description for description in self.descriptions if description.kept]
        rendered = self.rendered
        if options.fork_image == "drop":
            rendered = await self.engine.render(self.prompt.with_images(None), self.context)
        share = self.chain_share(len(kept) * options.forks)
        pending = {
            (one.index, fork): voting.Pending(one.index, fork, one.score)
            for one in kept
            for fork in range(options.forks)
        }
        sources, contexts = [], []
        for one in kept:
            context = self.stage_context(f"fork-{one.index}")
            suffix = (*self.opening, *one.token_ids)
            sampling = replace(
                self.sampling,
                max_tokens=self.room(min(self.sampling.max_tokens - len(one.token_ids), share), suffix),
                stop=(tags.answer[1],),
                structure=None if self.form is None else self.form.after_description(tags),
                seed=derive_seed(self.sampling.seed, "fork", one.index),
            )
            contexts.append(context)
            sources.append(self.engine.generate(rendered, suffix, options.forks, sampling, context))
        with self.deadline.guard(*(context.request_id for context in contexts)):
            async with aclosing(merge(sources)) as samples:
                async for which, sample in samples:
                    chain = self.read_chain(sample, kept[which])
                    del pending[kept[which].index, sample.index]
                    self.chains.append(chain)
                    yield ChainDone(chain)
                    if self.outcome or not options.early_stop or not pending or self.deadline.passed:
                        continue
                    if self.settled(list(pending.values())):
                        yield self.decision(len(pending))
                        await asyncio.gather(*(self.engine.abort(context.request_id) for context in contexts))
        self.note_stage("fork", started, [chain.tokens for chain in self.chains])

    async def plain(self) -> AsyncGenerator[Event, None]:
        """No description was usable: one ordinary answer to the conversation as it came."""
        started = time.perf_counter()
        if self.pipeline.settings.instruction:
            self.rendered = await self.engine.render(self.conversation, self.context)
        structure = None if self.form is None else self.form.alone()
        sampling = replace(
            self.sampling,
            max_tokens=self.room(min(self.sampling.max_tokens, self.chain_share(1)), ()),
            stop=(self.pipeline.settings.tags.answer[1],) if structure is None else (),
            structure=structure,
            seed=derive_seed(self.sampling.seed, "plain"),
        )
        context = self.stage_context("plain")
        with self.deadline.guard(context.request_id):
            source = self.engine.generate(self.rendered, (), 1, sampling, context)
            async with aclosing(source):
                async for sample in source:
                    chain = self.read_chain(sample, None)
                    self.chains.append(chain)
                    yield ChainDone(chain)
        self.note_stage("plain", started, [chain.tokens for chain in self.chains])

    def read_chain(self, sample: Sample, description: Description | None) -> Chain:
        """What a sampled chain says. The sample is kept: its tokens may be asked for."""
        self.chain_samples.append(sample)
        text = self.engine.decode(sample.token_ids)
        tags, finished = self.pipeline.settings.tags, sample.finish_reason == "stop"
        if self.form is None:
            found = answers.locate(text, tags, finished)
        else:
            found = self.form.read(text, tags, finished, alone=description is None)
        answer = found.answer
        if answer is not None and not found.calls:
            answer = cut_at_stop(answer, self.sampling.stop)
        return Chain(
            description=description.index if description else None,
            fork=sample.index,
            text=text,
            reasoning=found.reasoning,
            answer=answer,
            tokens=len(sample.token_ids),
            finish_reason=sample.finish_reason,
            score=description.score if description else None,
            start=found.start,
            calls=found.calls,
        )

    def result(self) -> Result:
        """The vote over what finished, with its evidence.

        Raises:
            DeadlineError, DrainingError: the deadline passed and no chain gave an answer.
        """
        outcome = self.outcome
        if outcome is None and self.deadline.passed:
            raise self.deadline.error("before any chain had an answer")
        # Without any answer (every chain was cut off) the best description's chain shows how far it came.
        ranked = sorted(self.chains, key=lambda chain: (-(chain.score or 0.0), chain.fork))
        representative = outcome.representative if outcome else ranked[0]
        confidence, calibrated = self.confidence()
        by_index = {description.index: description for description in self.descriptions}
        description = by_index.get(-1 if representative.description is None else representative.description)
        return Result(
            content=representative.answer or "",
            reasoning=representative.reasoning,
            finish_reason=representative.finish_reason,
            representative=representative,
            description=description,
            descriptions=self.descriptions,
            chains=tuple(self.chains),
            vote=outcome.vote if outcome else None,
            confidence=confidence,
            margin=self.margin(description),
            prompt_tokens=self.rendered.prompt_tokens,
            stages=tuple(self.stages),
            aggregation=outcome.aggregation if outcome else "best",
            partial=self.deadline.passed,
            fallback=self.fallback,
            mi_weight=self.mi_weight,
            calibrated=calibrated,
        )

    def confidence(self) -> tuple[float | None, bool]:
        """How sure the answer is, and whether that is calibrated."""
        calibration = calibration_for(self.pipeline.settings, self.options, self.sampling)
        # No calibration is fitted on votes that a deadline cut short, or on answers held to a form.
        if self.deadline.passed or self.form is not None:
            calibration = None
        return reported(self.outcome.confidence if self.outcome else None, self.descriptions, calibration)

    def margin(self, winner: Description | None) -> float | None:
        """The winner's score above the best description that says something else."""
        if winner is None or winner.score is None:
            return None
        others = [d.score for d in self.descriptions if d.score is not None and d.text != winner.text]
        return winner.score - max(others) if others else None

    def chain_share(self, chains: int) -> int:
        """How many of the request's remaining tokens one chain may sample; tokens."""
        if self.options.max_total_tokens is None:
            return self.sampling.max_tokens
        used = sum(stage.generated_tokens for stage in self.stages)
        return max((self.options.max_total_tokens - used) // chains, 1)

    def room(self, wanted: int, suffix: Sequence[int]) -> int:
        """`wanted`, or what the model's context still holds; at least 1; tokens."""
        free = self.engine.max_model_len - self.rendered.prompt_tokens - len(suffix)
        if free < 1:
            raise ContextLengthError(
                f"{TOO_LONG}: this model's maximum context length is {self.engine.max_model_len} tokens; the "
                f"conversation takes {self.rendered.prompt_tokens}, which leaves no room for an answer",
                param="messages",
            )
        return max(1, min(wanted, free))

    def stage_context(self, stage: str) -> RequestContext:
        return replace(self.context, request_id=f"{self.context.request_id}-{stage}")

    def note_stage(self, stage: Stage, started: float, tokens: Sequence[int]) -> None:
        self.stages.append(StageUsage(stage, len(tokens), sum(tokens), 0, time.perf_counter() - started))
