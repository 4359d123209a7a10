"""How a gated request's time divides over its stages, on the bundled model and real vLLM.

    python -m tests.benchmarks.bundled_model.stage_shares [--requests 60] [--concurrency 1]

Shares are of the summed stage times within one run on one engine; absolute times depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections import Counter

from PIL import Image

from mirl_core.bundled import DIGITS
from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, StageUsage

WARM_UP = 5


def conversations() -> list[Conversation]:
    result = []
    for question in DIGITS.questions():
        with Image.open(question.file) as image:
            parts = [
                {"type": "image", "image": image.convert("RGB")},
                {"type": "text", "text": question.question},
            ]
        result.append(Conversation(({"role": "user", "content": parts},)))
    return result


async def measure(requests: int, concurrency: int) -> list[tuple[StageUsage, ...]]:
    """The stages of every request after the warm-up."""
    settings = ModelSettings.load(DIGITS.path) or ModelSettings()
    engine = await VLLMEngine.start(str(DIGITS.path))
    pipeline = Pipeline(engine, settings)
    limit = asyncio.Semaphore(concurrency)

    async def usage(number: int, conversation: Conversation) -> tuple[StageUsage, ...]:
        async with limit:
            stages: tuple[StageUsage, ...] = ()
            sampling = Sampling(max_tokens=256, seed=number)
            context = RequestContext(f"share-{number}")
            async for event in pipeline.run(conversation, settings.options, sampling, context):
                if isinstance(event, Finished):
                    stages = event.result.stages
            return stages

    try:
        queue = itertools.islice(itertools.cycle(conversations()), WARM_UP + requests)
        done = await asyncio.gather(*(usage(number, asking) for number, asking in enumerate(queue)))
    finally:
        await engine.close()
    return done[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=1)
    arguments = parser.parse_args()
    stages = asyncio.run(measure(arguments.requests, arguments.concurrency))
    seconds: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for stage in itertools.chain.from_iterable(stages):
        seconds[stage.stage] += stage.seconds
        tokens[stage.stage] += stage.generated_tokens + stage.scored_tokens
    total = sum(seconds.values())
    for name, value in seconds.items():
        each = value / len(stages)
        print(f"{name:<10}{value / total:7.1%}{1000 * each:9.1f} ms{tokens[name] / len(stages):9.1f} tokens")


if __name__ == "__main__":
    main()
