"""Timed runs of methods on one engine, interleaved: every block of questions goes to all methods in turn.

The order of the methods is shuffled for every block, so that drift of the machine and growth of the caches
hit all of them. A block is one question with one request in flight, and two questions for each of several
requests in flight; a method's block ends before the next method begins, so no method is timed beside another.

Every run has a picture that no run had before: one pixel differs. Otherwise the first method of a block would
pay for the image's preprocessing, encoding and prefill, and the others would find them in vLLM's caches.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mirl_core.algorithm.costs import Work
from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.evaluation.bank.live import LiveRun
from mirl_core.tasks.questions import Question
from tests.benchmarks.latency.meter import Meter
from tests.benchmarks.latency.methods import LiveMethod

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Interleaved", "Pass", "TimedRun", "marked"]


@dataclass(frozen=True, slots=True)
class TimedRun:
    """One request."""

    method: str
    block: int
    """Number of the block of questions: the unit that the bootstrap resamples."""
    run: LiveRun
    works: tuple[Work, ...]
    """Its engine calls."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON; every work as a list of its fields."""
        fields = Work.__dataclass_fields__
        works = [[getattr(work, name) for name in fields] for work in self.works]
        return {"method": self.method, "block": self.block, "run": self.run.to_json(), "works": works}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> TimedRun:
        """Return the inverse of `to_json`."""
        works = tuple(Work(*values) for values in entry["works"])
        return cls(entry["method"], entry["block"], LiveRun.from_json(entry["run"]), works)


@dataclass(frozen=True, slots=True)
class Pass:
    """All runs with the same number of requests in flight."""

    together: int
    """Requests in flight."""
    runs: tuple[TimedRun, ...]
    wall: dict[str, float]
    """By method, the seconds in which it had requests in flight."""


@dataclass
class Interleaved:
    """Runs methods on one engine.

    Args:
        seed: of the samples and of the methods' order.
        block_tokens: size of a block of the engine's KV cache; tokens.
        advance: called with each request that ended.
    """

    engine: Engine
    settings: ModelSettings
    methods: Sequence[LiveMethod]
    seed: int
    block_tokens: int
    advance: Callable[[TimedRun], None] = lambda run: None
    _number: Iterator[int] = field(default_factory=lambda: iter(range(1, 2**24)))

    async def warm_up(self, questions: Sequence[Question]) -> None:
        """Run every method once on each question, untimed."""
        for question in questions:
            for method in self.methods:
                await self._run(method, question, 0)

    async def run(self, questions: Sequence[Question], together: int) -> Pass:
        """Run every method on every question, `together` requests of a method at a time."""
        size = 1 if together == 1 else 2 * together
        order = random.Random(f"{self.seed} {together}")
        wall = dict.fromkeys((method.name for method in self.methods), 0.0)
        runs: list[TimedRun] = []
        for block, start in enumerate(range(0, len(questions), size)):
            for method in order.sample(self.methods, len(self.methods)):
                began = time.perf_counter()
                runs += await self._block(method, questions[start : start + size], block, together)
                wall[method.name] += time.perf_counter() - began
        return Pass(together, tuple(runs), wall)

    async def _block(
        self, method: LiveMethod, questions: Sequence[Question], block: int, together: int
    ) -> list[TimedRun]:
        limit = asyncio.Semaphore(together)

        async def limited(question: Question) -> TimedRun:
            async with limit:
                return await self._run(method, question, block)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(question)) for question in questions]
        return [task.result() for task in tasks]

    async def _run(self, method: LiveMethod, question: Question, block: int) -> TimedRun:
        number = next(self._number)
        meter = Meter(self.engine)
        run = await method.run(meter, self.settings, marked(question, number), self.seed, str(number))
        timed = TimedRun(method.name, block, run, meter.works(self.block_tokens))
        self.advance(timed)
        return timed


def marked(question: Question, number: int) -> Question:
    """Return the question with a picture whose first pixel is `number` as a colour."""

    def image() -> Image:
        picture = question.image().convert("RGB")
        picture.putpixel((0, 0), (number >> 16 & 255, number >> 8 & 255, number & 255))
        return picture

    return replace(question, image=image)
