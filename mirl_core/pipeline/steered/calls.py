"""The engine calls of one steered request: each is counted, timed and stopped with the request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager

from mirl_core.engines.base import Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.common.samples import empty_sample
from mirl_core.pipeline.request import Request
from mirl_core.types import Stage, StageUsage

__all__ = ["Calls"]


class Calls:
    """Makes the engine calls of a request, of which many run side by side.

    Every sampled token is counted, those of aborted calls too.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._running: set[str] = set()
        self._stopped = False
        self._clocks: dict[Stage, _Clock] = {stage: _Clock() for stage in ("describe", "score", "fork")}
        self._generated: Counter[Stage] = Counter()
        self._scored = 0

    @property
    def stopped(self) -> bool:
        """Whether no further call samples anything: by `stop`, or by the request's deadline."""
        return self._stopped or self._request.deadline.passed

    @property
    def generated(self) -> Mapping[Stage, int]:
        """Sampled tokens by stage, of the calls that ended."""
        return self._generated

    async def generate(
        self, stage: Stage, name: str, rendered: Rendered, suffix: Sequence[int], sampling: Sampling
    ) -> Sample:
        """Return a continuation of the prompt and `suffix`; an aborted one after `stop`.

        Args:
            name: unique among the stage's calls.
        """
        if self.stopped:
            return empty_sample(0, "abort")
        context = self._request.stage_context(f"{stage}-{name}")
        sample = empty_sample(0, "abort")
        self._running.add(context.request_id)
        try:
            with self._request.deadline.aborts(context.request_id), self._clocks[stage].running():
                source = self._request.engine.generate(rendered, suffix, 1, sampling, context)
                async with aclosing(source):
                    async for only in source:
                        sample = only
        finally:
            self._running.discard(context.request_id)
        self._generated[stage] += len(sample.token_ids)
        return sample

    async def score_likeliest(
        self, rendered: Rendered, suffix: Sequence[int], start: int, top: int
    ) -> list[dict[int, float]]:
        """Return log p of the likeliest tokens at each position of `suffix` from `start` on; nats."""
        with self.scoring(len(suffix) - start) as context:
            return await self._request.engine.score_likeliest(rendered, suffix, start, top, context)

    @contextmanager
    def scoring(self, tokens: int) -> Iterator[RequestContext]:
        """Count a scoring call of `tokens`, made within the block under the context."""
        self._scored += tokens
        with self._clocks["score"].running():
            yield self._request.stage_context(f"score-{self._clocks['score'].calls}")

    async def stop(self) -> None:
        """Abort all running samples, and start none any more."""
        self._stopped = True
        await asyncio.gather(*(self._request.engine.abort(name) for name in self._running))

    def usage(self, stage: Stage) -> StageUsage:
        """Return what a stage has cost so far; stages run side by side, and so do their seconds."""
        clock = self._clocks[stage]
        scored = self._scored if stage == "score" else 0
        return StageUsage(stage, clock.calls, self._generated[stage], scored, clock.seconds)


class _Clock:
    """Counts the calls of a stage, and the seconds during which at least one of them ran."""

    def __init__(self) -> None:
        self.calls = 0
        self._seconds = 0.0
        self._running = 0
        self._since = 0.0

    @property
    def seconds(self) -> float:
        return self._seconds + (time.perf_counter() - self._since if self._running else 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.calls += 1
        if not self._running:
            self._since = time.perf_counter()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._seconds += time.perf_counter() - self._since
