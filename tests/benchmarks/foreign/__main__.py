"""How often a confidence is called calibrated: on a world's questions, and on foreign pictures and questions.

python -m tests.benchmarks.foreign --model mirl-charts --n 200 --document docs/evaluation.md
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mirl_core.algorithm.confidence import traits_of
from mirl_core.bundled import DIGITS, MODELS, resolve
from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.evaluation.measures.statistics import wilson
from mirl_core.evaluation.run.progress import Bars
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from mirl_core.types import Result
from tests.benchmarks.foreign.requests import foreign_requests
from tests.benchmarks.tables import markdown, put

SPLITS = ("iid", "shifted", "ambiguous")
KINDS = {
    "picture": "a foreign picture, a question of the world",
    "question": "a picture of the world, a foreign question",
    "both": "a foreign picture and question",
    "world": "a picture of another world",
}
IN_FLIGHT = 8
MAX_TOKENS = 256


def main(
    model: Annotated[str, typer.Option(help="mirl-charts or mirl-tiny")] = "mirl-charts",
    n: Annotated[int, typer.Option(help="questions of each split of the model's world, of test data")] = 200,
    skip: Annotated[int, typer.Option(help="of those splits, questions left out before them")] = 0,
    seed: Annotated[int, typer.Option(help="of the samples")] = 0,
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    """Print the share of requests whose confidence is called calibrated, by kind of request."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if model not in MODELS:
        raise typer.BadParameter(f"choose one of {', '.join(MODELS)}", param_hint="--model")
    world = "digits" if model == DIGITS.name else "charts"
    results = asyncio.run(_run(model, list(_requests(world, n, skip)), seed))
    text = table(results)
    print(text)
    if document is not None:
        document.write_text(put(document.read_text(), f"foreign-{model}", text))


def _requests(world: str, n: int, skip: int) -> Iterator[tuple[str, Question]]:
    yield from foreign_requests(world)
    for split in SPLITS:
        for question in open_data(f"{world}/{split}", "test", n, 0, skip=skip).questions:
            yield f"{world}/{split}", question


async def _run(
    model: str, requests: Sequence[tuple[str, Question]], seed: int
) -> Mapping[str, Sequence[Result]]:
    from mirl_core.engines.vllm.throughput import start_engine

    settings = ModelSettings.load(resolve(model)) or ModelSettings()
    engine = await start_engine(resolve(model))
    pipeline = Pipeline(engine, settings)
    turns = asyncio.Semaphore(IN_FLIGHT)
    results: dict[str, list[Result]] = defaultdict(list)

    async def answer(number: int, kind: str, question: Question) -> None:
        conversation = await asyncio.to_thread(question.conversation)
        sampling = Sampling(MAX_TOKENS, settings.temperature, seed=1_000_000 * seed + number)
        context = RequestContext(f"foreign-{number}")
        async with turns, aclosing(pipeline.run(conversation, settings.options, sampling, context)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    results[kind].append(event.result)
        bar.at(sum(map(len, results.values())), len(requests))

    try:
        with Bars() as bars, bars.bar(model, len(requests)) as bar:
            async with asyncio.TaskGroup() as group:
                for number, (kind, question) in enumerate(requests):
                    group.create_task(answer(number, kind, question))
    finally:
        await engine.close()
    return results


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Return the results in Markdown, by kind of request."""
    head = ["requests", "n", "called calibrated, %", "their mean confidence, %", "log p per token, nats"]
    body = []
    for kind, answered in results.items():
        calibrated = [result for result in answered if result.calibrated]
        share = len(calibrated) / len(answered)
        low, high = wilson(share, len(answered))
        confidences = [result.confidence for result in calibrated if result.confidence is not None]
        logprobs = [traits.logprob for result in answered if (traits := traits_of(result.descriptions))]
        body.append(
            [
                KINDS.get(kind, f"`{kind}`"),
                str(len(answered)),
                f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
                f"{100 * np.mean(confidences):.0f}" if confidences else "",
                f"{np.mean(logprobs):.2f}",
            ]
        )
    return markdown(head, body)


if __name__ == "__main__":
    typer.run(main)
