"""A short measurement of an engine's rates, for the cost model: some dozen calls on an idle engine."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from mirl_core.algorithm.costs import Rates, fitted
from mirl_core.engines.base import Rendered, RequestContext
from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.tasks.questions import Question
from mirl_core.types import Conversation
from tests.benchmarks.latency.measure import marked

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

__all__ = ["block_tokens", "probe"]

REPEATS = 3
STEPS = 16
SCORED = (8, 60)
"""Suffixes of a scoring call, and their length in tokens."""
LENGTHS = (60, 240, 600)
"""Words of the prompts that are prefilled."""
WORDS = ("apples", "pears", "chart", "column", "seven", "more", "than", "the", "of", "sold", "and", "plums")


async def probe(engine: VLLMEngine, question: Question, batches: Sequence[int]) -> Rates:
    """Return the engine's rates.

    Args:
        question: its picture is encoded, with a pixel changed each time.
        batches: numbers of sequences at which a decoding step is measured.
    """
    return await _Probe(engine).rates(question, batches)


def block_tokens(engine: VLLMEngine) -> int:
    """Return the size of a block of the engine's KV cache; tokens."""
    return int(engine.client.vllm_config.cache_config.block_size)


class _Probe:
    def __init__(self, engine: VLLMEngine) -> None:
        self._engine = engine
        config = engine.client.vllm_config.model_config
        self._banned = placeholder_ids(config.hf_config, int(config.get_vocab_size()))
        self._random = random.Random(0)
        self._calls = 0

    async def rates(self, question: Question, batches: Sequence[int]) -> Rates:
        await self._seconds(await self._text(LENGTHS[0]), 2, 2)  # the first call is slower
        render, shown = await self._rendered(question)
        lengths = [words for words in LENGTHS if 4 * words < self._engine.max_model_len]
        points = []
        for words in lengths * REPEATS:
            rendered = await self._text(words)
            points.append((float(rendered.prompt_tokens), await self._seconds(rendered, 1, 1)))
        first, prefill = fitted(points)
        image = fmean(
            [
                await self._seconds(rendered, 1, 1) - first - rendered.prompt_tokens / prefill
                for rendered in shown
            ]
        )
        steps = tuple([(batch, await self._step(batch)) for batch in sorted({1, *batches})])
        call = max(0.0, first - steps[0][1])
        score = median([await self._score(call) for _ in range(REPEATS)])
        return Rates(prefill, steps, score, call, max(0.0, image), render)

    async def _rendered(self, question: Question) -> tuple[float, list[Rendered]]:
        """Return the seconds of rendering a question, and renderings with different pictures."""
        renderings, seconds = [], []
        for number in range(REPEATS + 1):
            # Numbers from the end of those that runs have.
            conversation = marked(question, 2**24 - 1 - number).conversation()
            started = time.perf_counter()
            renderings.append(await self._engine.render(conversation, self._context()))
            seconds.append(time.perf_counter() - started)
        return fmean(seconds[1:]), renderings[1:]

    async def _step(self, batch: int) -> float:
        """Return the seconds of a decoding step of `batch` sequences."""
        whole = await self._seconds(await self._text(LENGTHS[0]), batch, STEPS + 1)
        return (whole - await self._seconds(await self._text(LENGTHS[0]), batch, 1)) / STEPS

    async def _score(self, call: float) -> float:
        """Return the tokens per second of a scoring call, prompts included."""
        count, length = SCORED
        rendered = await self._text(LENGTHS[0])
        suffixes = [self._engine.encode(self._words(2 * length))[:length] for _ in range(count)]
        started = time.perf_counter()
        await self._engine.score(rendered, suffixes, self._context())
        seconds = time.perf_counter() - started
        return sum(rendered.prompt_tokens + len(suffix) for suffix in suffixes) / max(seconds - call, 1e-6)

    async def _seconds(self, rendered: Rendered, n: int, tokens: int) -> float:
        """Return the seconds in which `n` sequences of exactly `tokens` tokens are sampled."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            max_tokens=tokens,
            temperature=1.0,
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            logit_bias=dict.fromkeys(self._banned, float("-inf")) or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        async def sampled(prompt: dict[str, Any], name: str) -> None:
            async with aclosing(self._engine.client.generate(prompt, params, name)) as outputs:
                async for _ in outputs:
                    pass

        prompts = [rendered.inputs.fork((), None)[0] for _ in range(n)]
        started = time.perf_counter()
        await asyncio.gather(*(sampled(prompt, self._context().request_id) for prompt in prompts))
        return time.perf_counter() - started

    async def _text(self, words: int) -> Rendered:
        """Return the rendering of a text that no call had before."""
        conversation = Conversation(({"role": "user", "content": self._words(words)},))
        return await self._engine.render(conversation, self._context())

    def _words(self, count: int) -> str:
        return " ".join(self._random.choices(WORDS, k=count))

    def _context(self) -> RequestContext:
        self._calls += 1
        return RequestContext(f"probe-{self._calls}")
