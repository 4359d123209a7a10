"""The parts of the score stage's time: a gated request's descriptions are sampled, then scored and timed.

Timers around vLLM's functions (`timers.py`) split it. Variants of the same scoring show the possible savings:

- as served: the text-only prompt is prefilled again for every description;
- prompt from the prefix cache: the prompt is prefilled once, and descriptions start from its full blocks, as
  the engine does for prompts of `LONG_PROMPT` tokens and more;
- forward alone: the same prefill without log-probabilities of the prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from mirl_core.algorithm.mi.estimators import make_estimator
from mirl_core.algorithm.mi.scoring import image_free_logprobs
from mirl_core.algorithm.segments import read_description
from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sampling
from mirl_core.tasks.questions import Question
from mirl_core.types import Conversation
from tests.benchmarks.latency.score_stage.timers import HERE, Timers
from tests.benchmarks.tables import markdown

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

__all__ = ["profile", "profile_table"]

Tokens = tuple[int, ...]
VARIANTS = ("as served", "prompt from the prefix cache", "forward alone")


@dataclass(frozen=True, slots=True)
class Described:
    """A question with the descriptions that are scored."""

    prompt: Conversation
    contents: list[Tokens]


async def profile(
    engine: VLLMEngine,
    sampler: Engine,
    settings: ModelSettings,
    questions: Sequence[Question],
    together: Sequence[int],
    *,
    descriptions: int,
    max_tokens: int,
) -> list[dict[str, Any]]:
    """Return one entry for each variant and number of requests at once: seconds per request, and their parts.

    Args:
        engine: runs the model, started with `timers.EXTENSION`; it is scored on.
        sampler: the engine that samples the descriptions, `engine` or a wrapper around it.
        questions: each is scored once in every variant, in groups of the requests at once.
        descriptions: how many descriptions of each question.
        max_tokens: longest description; tokens.
    """
    described = [
        await _describe(sampler, settings, question, descriptions, max_tokens) for question in questions
    ]
    await engine.client.collective_rpc("mirl_start_timers")  # type: ignore[attr-defined]
    scoring = _Scoring(engine, settings)
    entries: list[dict[str, Any]] = []
    for count in together:
        groups = [described[start : start + count] for start in range(0, len(described), count)]
        full = [group for group in groups if len(group) == count] or groups[:1]
        entries += [await scoring.measure(variant, full) for variant in VARIANTS]
    return entries


def profile_table(entries: Sequence[dict[str, Any]]) -> str:
    """Return the entries in Markdown: milliseconds per request, a column for each entry."""
    names = dict.fromkeys(name for entry in entries for name in entry["parts"])
    heads = [f"{entry['variant']}, {entry['together']} at once" for entry in entries]
    body = [["whole stage", *(f"{1000 * entry['seconds']:.1f}" for entry in entries)]]
    for name in sorted(names, key=lambda name: -max(entry["parts"].get(name, 0.0) for entry in entries)):
        cells = [
            f"{1000 * entry['parts'][name]:.1f} ({entry['parts'][name] / entry['seconds']:.0%})"
            if name in entry["parts"]
            else ""
            for entry in entries
        ]
        body.append([name, *cells])
    body.append(["scored tokens, prompts included", *(f"{entry['tokens']:.0f}" for entry in entries)])
    return markdown(["ms per request", *heads], body)


class _Scoring:
    """Scores described questions in each variant, with timers."""

    def __init__(self, engine: VLLMEngine, settings: ModelSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._opening = engine.encode(settings.tags.description[0])
        self._here = Timers()
        self._calls = 0

    async def measure(self, variant: str, groups: Sequence[Sequence[Described]]) -> dict[str, Any]:
        """Return the variant's entry, over all groups of requests at once."""
        run = self._forward if variant == VARIANTS[2] else self._score
        threshold = 1 if variant == VARIANTS[1] else None
        await self._group(run, threshold, groups[0])  # untimed: it warms up
        await self._take()
        seconds = 0.0
        with self._here.around(HERE):
            for group in groups:
                seconds += await self._group(run, threshold, group)
            parts = await self._take()
        requests = sum(map(len, groups))
        # The requests of a group share its time.
        seconds /= requests
        parts = {name: value / requests for name, value in parts.items()}
        return {
            "variant": variant,
            "together": len(groups[0]),
            "requests": requests,
            "seconds": seconds,
            "parts": parts | {"everything else": max(0.0, seconds - sum(parts.values()))},
            "tokens": sum([await self._tokens(each) for group in groups for each in group]) / requests,
        }

    async def _group(
        self,
        run: Callable[[Described], Awaitable[None]],
        threshold: int | None,
        group: Sequence[Described],
    ) -> float:
        """Return the seconds in which all of a group are scored at once."""
        from mirl_core.engines.vllm import score

        long_prompt = score.LONG_PROMPT if threshold is None else threshold
        with patch.object(score, "LONG_PROMPT", long_prompt):
            started = time.perf_counter()
            await asyncio.gather(*map(run, group))
            return time.perf_counter() - started

    async def _score(self, described: Described) -> None:
        await image_free_logprobs(
            self._engine,
            make_estimator("text", ()),
            described.prompt,
            self._opening,
            described.contents,
            self._context(),
        )

    async def _forward(self, described: Described) -> None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        context = self._context()
        rendered = await self._engine.render(described.prompt.with_images(None), context)
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            skip_reading_prefix_cache=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        async def forward(number: int, content: Tokens) -> None:
            prompt, _ = rendered.inputs.fork((*self._opening, *content), context.cache_salt)
            name = f"{context.request_id}-{number}"
            async with aclosing(self._engine.client.generate(prompt, params, name)) as outputs:
                async for _ in outputs:
                    pass

        await asyncio.gather(*(forward(*item) for item in enumerate(described.contents)))

    async def _tokens(self, described: Described) -> int:
        """Return the tokens of a request's scoring passes, prompts included."""
        rendered = await self._engine.render(described.prompt.with_images(None), self._context())
        before = rendered.prompt_tokens + len(self._opening)
        return sum(before + len(content) for content in described.contents)

    async def _take(self) -> dict[str, float]:
        """Return the seconds of all timers since the last call."""
        (engine,) = await self._engine.client.collective_rpc("mirl_take_timers")  # type: ignore[attr-defined]
        return dict(Counter(engine) + Counter(self._here.take()))

    def _context(self) -> RequestContext:
        """Return the context of a call that finds no other call's prompt in the prefix cache."""
        self._calls += 1
        name = f"score-profile-{self._calls}"
        return RequestContext(name, cache_salt=name)


async def _describe(
    engine: Engine, settings: ModelSettings, question: Question, count: int, max_tokens: int
) -> Described:
    """Return the question with its usable descriptions, of which there are `count` at most."""
    prompt = question.conversation().with_instruction(settings.instruction)
    context = RequestContext(f"profile-{question.key}")
    rendered = await engine.render(prompt, context)
    sampling = Sampling(max_tokens, settings.temperature, stop=(settings.tags.description[1],), seed=0)
    opening = engine.encode(settings.tags.description[0])
    contents = []
    context = replace(context, request_id=f"{context.request_id}-describe")
    async with aclosing(engine.generate(rendered, opening, count, sampling, context)) as samples:
        async for sample in samples:
            description = read_description(sample, settings.tags, engine.decode)
            if description.reason is None:
                contents.append(description.token_ids[: description.content_tokens])
    return Described(prompt, sorted(set(contents)))
