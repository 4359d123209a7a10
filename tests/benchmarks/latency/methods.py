"""Live runs of methods, by the names that `mirl-eval` gives them.

Gated and steered methods run in the product's pipeline (`run_live`). `sc@K`, `direct`, `adaptive@K` and
`esc@K` sample whole trajectories: one rendering, then `Engine.generate` with n samples, then the product's
vote. That is plain sampling on vLLM, and the fair rival: the pipeline's gate `none` describes first and waits
for the longest description before it forks, which costs the same tokens and more time
(`none(descriptions=16;forks=1)` is a method too). Like the pipeline's, these samples start after the opening
tag and carry the log-probability of every token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from mirl_core.algorithm import answers, voting
from mirl_core.algorithm.aggregators import Pending
from mirl_core.config import Aggregation, MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sample, Sampling
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.live import LiveRun, run_live
from mirl_core.evaluation.methods import Method, parse_methods
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.replay_chains import Trace
from mirl_core.evaluation.methods.sampled import Adaptive, Direct, EarlyStopping, SelfConsistency
from mirl_core.evaluation.methods.steered import Steered
from mirl_core.tasks.questions import Question, is_right, question_seed
from mirl_core.types import Chain

__all__ = ["LiveMethod", "live_methods"]


class LiveMethod(Protocol):
    """A method that answers a question on an engine."""

    @property
    def name(self) -> str:
        """The name as the user wrote it."""
        ...

    async def run(
        self, engine: Engine, settings: ModelSettings, question: Question, seed: int, label: str
    ) -> LiveRun:
        """Answer one question.

        Args:
            seed: of the run; the question's seed is derived from it.
            label: unique among the running requests.
        """
        ...


@dataclass(frozen=True, slots=True)
class InPipeline:
    """A method that the product's pipeline answers by."""

    name: str
    options: MIRLOptions
    max_tokens: int

    async def run(
        self, engine: Engine, settings: ModelSettings, question: Question, seed: int, label: str
    ) -> LiveRun:
        return await run_live(
            engine, settings, question, self.options, seed, data=label, max_tokens=self.max_tokens
        )


@dataclass(frozen=True, slots=True)
class Sampled:
    """Whole trajectories, `window` at a time and at most `count`, until `enough` is true of them; a vote."""

    name: str
    count: int
    window: int
    aggregate: Aggregation
    max_tokens: int
    temperature: float | None = None
    stop: bool = False
    """Whether trajectories that can't change the vote are aborted."""
    enough: Callable[[Sequence[Chain]], bool] | None = None

    async def run(
        self, engine: Engine, settings: ModelSettings, question: Question, seed: int, label: str
    ) -> LiveRun:
        conversation = await asyncio.to_thread(question.conversation)
        sampling = Sampling(
            max_tokens=self.max_tokens,
            temperature=settings.temperature if self.temperature is None else self.temperature,
            stop=(settings.tags.answer[1],),
            seed=question_seed(seed, question.key),
        )
        context = RequestContext(f"live-{label}-{question.key}")
        opening = engine.encode(settings.tags.description[0])
        chains: list[Chain] = []
        started = time.perf_counter()
        rendered = await engine.render(conversation.with_instruction(settings.instruction), context)
        sampled = time.perf_counter()
        while len(chains) < self.count and not (chains and self.enough and self.enough(chains)):
            first = len(chains)
            size = min(self.window, self.count - first)
            name = f"{context.request_id}-sample-{first}"
            source = engine.generate(
                rendered,
                opening,
                size,
                replace(sampling, first_branch=first),
                replace(context, request_id=name),
            )
            async with aclosing(source):
                async for sample in source:
                    chains.append(_chain(sample, first + sample.index, settings, engine))
                    if self.stop and self._decided(chains):
                        await engine.abort(name)
        outcome = await asyncio.to_thread(voting.tally, chains, self.aggregate)
        ended = time.perf_counter()
        answer = None if outcome is None else outcome.representative.answer
        return LiveRun(
            key=question.key,
            data=label,
            answer=answer,
            right=is_right(question, answer),
            generated_tokens=sum(chain.tokens for chain in chains),
            scored_tokens=0,
            trajectories=sum(chain.finished for chain in chains),
            confidence=None if outcome is None else outcome.confidence,
            seconds=ended - started,
            stage_seconds={"sample": ended - sampled},
        )

    def _decided(self, chains: Sequence[Chain]) -> bool:
        forks = {chain.fork for chain in chains}
        pending = [Pending(None, fork, None) for fork in range(self.count) if fork not in forks]
        return bool(pending) and voting.decided(chains, pending, self.aggregate)


def live_methods(
    names: str, settings: ModelSettings, *, max_tokens: int = 512, window: int = 1
) -> tuple[LiveMethod, ...]:
    """Return the methods named in `names`, separated by commas, in their order.

    Args:
        settings: the model's; methods in the pipeline start from its options.
        max_tokens: longest trajectory; tokens.
        window: trajectories that `adaptive@K` samples side by side before it looks at the vote; the paper's
            samples one at a time.

    Raises:
        ConfigError: a name is unknown, or has no live run; `param` is `methods`.
    """
    return tuple(_live(method, max_tokens, window) for method in parse_methods(names, settings))


def _live(method: Method, max_tokens: int, window: int) -> LiveMethod:
    if isinstance(method, Gated | Steered) and method.served:
        return InPipeline(method.name, method.options, max_tokens)
    if isinstance(method, Direct):
        return Sampled(method.name, 1, 1, method.aggregate, max_tokens, method.temperature)
    if isinstance(method, SelfConsistency):
        count = method.count
        return Sampled(
            method.name, count, count, method.aggregate, max_tokens, method.temperature, method.stop
        )
    if isinstance(method, Adaptive | EarlyStopping):
        options = method.options
        if isinstance(method, EarlyStopping):
            size = method.options.window
            enough = _agree(size)
        else:
            size = window
            enough = _likely(method)
        return Sampled(
            method.name,
            method.count,
            size,
            options.aggregate,
            max_tokens,
            options.temperature,
            enough=enough,
        )
    raise ConfigError(
        f"methods: {method.name} has no live run; take sc@K, direct, adaptive@K, esc@K, presets or gates",
        param="methods",
    )


def _likely(method: Adaptive) -> Callable[[Sequence[Chain]], bool]:
    """Return the stopping rule of `adaptive@K`."""
    return lambda chains: method.enough([Trace(chain, False, chain.tokens) for chain in chains])


def _agree(window: int) -> Callable[[Sequence[Chain]], bool]:
    """Return the stopping rule of `esc@K`: all answers of the last window agree."""

    def agree(chains: Sequence[Chain]) -> bool:
        latest = [chain.answer for chain in chains[-window:] if chain.answer is not None]
        return len(latest) == window and len(answers.group(latest)) == 1

    return agree


def _chain(sample: Sample, number: int, settings: ModelSettings, engine: Engine) -> Chain:
    """Return trajectory number `number` as a chain; without an answer where its description doesn't end."""
    _, closed, text = engine.decode(sample.token_ids).partition(settings.tags.description[1])
    extract = answers.locate(text, settings.tags, sample.finish_reason == "stop")
    return Chain(
        description=None,
        fork=number,
        text=text,
        reasoning=extract.reasoning,
        answer=extract.answer if closed else None,
        tokens=len(sample.token_ids),
        finish_reason=sample.finish_reason,
        start=extract.start,
    )
