"""The steered stage: decoded descriptions vote first, samples follow in waves while the vote is open.

A request's descriptions and chains run side by side: a chain starts as soon as its description is complete,
and all that still runs is aborted once the vote is certain enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import Outcome
from mirl_core.algorithm.budget import fanout
from mirl_core.engines.base import Rendered, Sample, derive_seed
from mirl_core.engines.common.concurrency import cancel_and_wait
from mirl_core.pipeline.chains import SampledChains, chain_prompt, chain_sampling, read_chain
from mirl_core.pipeline.events import Branched, ChainDone, Decided, Described
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.steered.ballot import Ballot
from mirl_core.pipeline.steered.calls import Calls
from mirl_core.pipeline.steered.decode import Decoder
from mirl_core.pipeline.steered.readings import Readings, mi_options
from mirl_core.types import Chain, Description, StageUsage

__all__ = ["Steered", "steer"]


@dataclass(frozen=True, slots=True)
class Steered:
    """The stage's result."""

    descriptions: tuple[Description, ...]
    """Ordered by index: the decoded ones first."""
    mi_weight: float | None
    """λ of every description's `mi`; None where no description has an `mi`."""
    chains: SampledChains
    stages: tuple[StageUsage, ...]
    """The cost of describing and scoring; `chains` has its own."""

    @property
    def any_usable(self) -> bool:
        """Whether at least one description was complete and usable."""
        return any(description.kept for description in self.descriptions)


async def steer(
    request: Request, *, chains: bool = True
) -> AsyncGenerator[Branched | Described | ChainDone | Decided | Steered, None]:
    """Yield descriptions and chains as they end, the decision if it comes early, and last the stage's result.

    Args:
        chains: False: decode the descriptions only.

    Raises:
        ContextLengthError: the prompt leaves no token for a description.
        DeadlineError, DrainingError: the deadline passed before a description was complete.
        RequestError: the estimator needs reference images, and the model has none.
    """
    run = _Run(request, chains)
    try:
        async for item in run.events():
            yield item
    finally:
        await run.close()


class _Run:
    """One request's descriptions and chains under way. Only `events` reads and changes the state."""

    def __init__(self, request: Request, chains: bool) -> None:
        self._request = request
        self._options = request.options
        self._with_chains = chains
        self._calls = Calls(request)
        self._ballot = Ballot(request.options)
        # At temperature 0 a sample repeats the decode with λ = 0.
        self._most = request.options.descriptions if chains and request.sampling.temperature > 0 else 0
        self._sampled = 0
        self._descriptions: dict[int, Description] = {}
        self._counted_tokens = 0
        self._outcome: Outcome | None = None
        self._ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        self._running = 0
        self._tasks: list[asyncio.Task[Any]] = []
        decoder = Decoder(request, self._calls, self._start)
        self._readings = Readings(request, self._calls, decoder)

    async def events(self) -> AsyncGenerator[Branched | Described | ChainDone | Decided | Steered, None]:
        """Yield the events, and last the result."""
        request, options = self._request, self._options
        rendered = await chain_prompt(request) if self._with_chains else request.rendered
        for index in range(len(options.contrast)):
            self._follow(self._readings.decoded(index))
        yield Branched(descriptions=len(options.contrast) + self._sample(options.ahead))
        while self._running:
            task = await self._ended.get()
            self._running -= 1
            item = task.result()
            if isinstance(item, Description):
                description, forks = self._enter(item)
                if self._outcome is None:
                    yield Described(description, self._new_tokens())
                if forks:
                    for fork in forks:
                        self._follow(self._chain(rendered, description, fork))
                    yield Branched(chains=len(forks))
            else:
                chain, sample = item
                yield ChainDone(self._ballot.end(chain, sample))
            if self._running and self._is_decided():
                self._outcome = voting.tally(self._ballot.chains, options.aggregate)
                assert self._outcome is not None, "a decided vote has an answer"
                yield Decided(self._outcome.vote, self._outcome.representative, self._ballot.outstanding)
                await self._calls.stop()
            if not self._running and self._vote_is_open() and (more := self._sample(options.wave)):
                yield Branched(descriptions=more)
        # A draft that nothing waits for may still run, and its tokens count.
        await self._calls.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if request.deadline.passed and not any(item.kept for item in self._descriptions.values()):
            raise request.deadline.error("while describing the image")
        yield self._result()

    async def close(self) -> None:
        """Cancel what still runs."""
        await cancel_and_wait(self._tasks)

    def _enter(self, description: Description) -> tuple[Description, range]:
        """Return a description with its fate, and the numbers of the chains to start from it."""
        forks = range(0)
        if not self._calls.stopped:
            description, forks = self._ballot.enter(description)
        elif description.reason is None:
            description = replace(description, reason="stopped")
        self._descriptions[description.index] = description
        return description, forks if self._with_chains else range(0)

    def _is_decided(self) -> bool:
        if self._outcome is not None or not self._options.early_stop or self._request.deadline.passed:
            return False
        if self._ballot.certain():
            return True
        complete = self._running == self._ballot.outstanding and self._sampled >= self._most
        return complete and self._ballot.decided()

    def _vote_is_open(self) -> bool:
        return not self._calls.stopped and self._ballot.open_ended() and not self._ballot.certain()

    def _sample(self, count: int) -> int:
        """Start `count` more samples, or as many as are left; return how many."""
        first = len(self._options.contrast) + self._sampled
        count = min(count, self._most - self._sampled)
        self._sampled += count
        for index in range(first, first + count):
            self._follow(self._readings.sampled(index))
        return count

    async def _chain(self, rendered: Rendered, description: Description, fork: int) -> tuple[Chain, Sample]:
        request, options = self._request, self._options
        half = (options.max_total_tokens or 0) // 2
        sampling = chain_sampling(request, description, half, fanout(options, max_tokens=1).chains)
        number = description.index - len(options.contrast)
        # The branches that a sample's chains would be in a gated request; other seeds for those of a decode.
        decoding = description.decoding
        path = ("fork", number) if decoding is None else ("fork", "decoded", decoding.weight)
        # The first chain of a decoded description is greedy like it.
        greedy = decoding is not None and fork == 0
        sampling = replace(
            sampling,
            temperature=0.0 if greedy else sampling.temperature,
            seed=derive_seed(request.sampling.seed, *path),
            first_branch=fork,
        )
        suffix = (*request.opening, *description.token_ids)
        name = f"{description.index}-{fork}"
        sample = await self._calls.generate("fork", name, rendered, suffix, sampling)
        sample = replace(sample, index=fork)
        return read_chain(request, sample, description), sample

    def _result(self) -> Steered:
        descriptions = tuple(self._descriptions[index] for index in sorted(self._descriptions))
        weight = mi_options(self._options).mi_weight
        assert not isinstance(weight, str)
        return Steered(
            descriptions=descriptions,
            mi_weight=weight if any(item.mi is not None for item in descriptions) else None,
            chains=SampledChains(
                self._ballot.chains,
                tuple(self._ballot.samples),
                self._request.rendered,
                self._calls.usage("fork"),
                self._outcome,
            ),
            stages=(self._calls.usage("describe"), self._calls.usage("score")),
        )

    def _new_tokens(self) -> int:
        """Return the tokens of descriptions that were sampled since the last call."""
        total = self._calls.generated["describe"]
        new, self._counted_tokens = total - self._counted_tokens, total
        return new

    def _follow(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` as a task whose end `events` waits for."""
        self._running += 1
        self._start(work).add_done_callback(self._ended.put_nowait)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task
