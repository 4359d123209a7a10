"""Filling of a store with a data set: several questions in flight, finished questions never again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.engines.vllm.throughput import CONCURRENCY
from mirl_core.errors import RequestError
from mirl_core.evaluation.bank.live import run_live
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.sample import sample_question
from mirl_core.evaluation.bank.store import Bank, LiveBank, R, Store
from mirl_core.tasks.questions import DataSet, Question

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Progress", "fill", "fill_live"]

Progress = Callable[[int, int], None]
"""Called with (questions done, questions in all) at the start and after every question."""


async def fill(
    bank: Bank,
    engine: Engine,
    settings: ModelSettings,
    data: DataSet,
    plan: BankPlan,
    references: Sequence[Image] = (),
    *,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> None:
    """Bank every question of `data` that the bank lacks, or holds with another text or other pictures.

    Raises:
        RequestError: the engine refuses a question; the message names it.
        EngineError: the engine failed. Banked questions stay.
    """

    async def work(question: Question) -> None:
        bank.append(await sample_question(engine, settings, question, plan, references, data=data.name))

    await _each(bank, data, work, concurrency, progress)


async def fill_live(
    bank: LiveBank,
    engine: Engine,
    settings: ModelSettings,
    data: DataSet,
    options: MIRLOptions,
    seed: int,
    references: Sequence[Image] = (),
    *,
    concurrency: int = 1,
    progress: Progress | None = None,
    max_tokens: int = 512,
    temperature: float | None = None,
) -> None:
    """Run the pipeline on every question of `data` that the bank lacks; seconds are valid at concurrency 1.

    Raises:
        RequestError: the engine refuses a question; the message names it.
        EngineError: the engine failed. Finished questions stay.
    """

    async def work(question: Question) -> None:
        bank.append(
            await run_live(
                engine,
                settings,
                question,
                options,
                seed,
                references,
                data=data.name,
                max_tokens=max_tokens,
                temperature=temperature,
            )
        )

    await _each(bank, data, work, concurrency, progress)


async def _each(
    store: Store[R],
    data: DataSet,
    work: Callable[[Question], Awaitable[None]],
    concurrency: int,
    progress: Progress | None,
) -> None:
    """Do `work` on the questions that `store` lacks; the first failure ends it and is raised unwrapped."""
    done = store.current(data).records.keys()
    waiting = iter([question for question in data.questions if question.key not in done])
    total = len(data.questions)
    finished = sum(question.key in done for question in data.questions)
    report = progress or (lambda finished, total: None)
    report(finished, total)

    async def worker() -> None:
        nonlocal finished
        for question in waiting:
            try:
                await work(question)
            except RequestError as error:
                raise RequestError(f"{question.key}: {error.message}", param=error.param) from error
            finished += 1
            report(finished, total)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        # A KeyboardInterrupt may be in it too. Callers handle MIRLError, which a group would hide.
        failure: BaseException = errors
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None
