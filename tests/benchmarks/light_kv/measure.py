"""Runs of an arm on the questions: the answer of a gated request, the MI of fixed descriptions, KV blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.evaluation.bank.live import run_live
from mirl_core.tasks.questions import Question, question_seed
from tests.benchmarks.light_kv.arms import Arm, bounded
from tests.benchmarks.light_kv.engines import Opened

__all__ = ["DESCRIPTIONS", "Measured", "measure", "sample_descriptions"]

DESCRIPTIONS = 8
"""Descriptions of a question whose MI is compared."""
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one arm made of one question."""

    answer: str | None
    right: bool
    mi: tuple[float, ...]
    """MI per token of each fixed description under the model's λ; nats."""
    prompt_tokens: int
    tokens: int
    """Sampled and scored by the gated request."""
    blocks: int
    """KV blocks in use at the request's peak; 0 where the engine has none."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Measured:
        """Return the inverse of `to_json`."""
        return cls(**{**entry, "mi": tuple(entry["mi"])})


async def sample_descriptions(
    opened: Opened, settings: ModelSettings, question: Question, seed: int
) -> tuple[Tokens, ...]:
    """Return the tokens of complete descriptions of a question, without the closing tag's text."""
    engine, tags = opened.engine, settings.tags
    conversation = question.conversation().with_instruction(settings.instruction)
    context = RequestContext(f"fixed-{question.key}")
    rendered = await engine.render(conversation, context)
    sampling = Sampling(
        max_tokens=settings.options.description_tokens,
        temperature=settings.temperature,
        stop=(tags.description[1],),
        seed=question_seed(seed, question.key),
    )
    source = engine.generate(rendered, engine.encode(tags.description[0]), DESCRIPTIONS, sampling, context)
    async with aclosing(source):
        return tuple([sample.token_ids async for sample in source if sample.finish_reason == "stop"])


async def measure(
    opened: Opened,
    arm: Arm,
    settings: ModelSettings,
    questions: Sequence[Question],
    descriptions: Mapping[str, Sequence[Tokens]],
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Measured]:
    """Return what an arm makes of each question, by the question's key.

    Args:
        descriptions: of each question by its key, whose MI is measured.
        seed: of the samples; the same for every arm.
    """
    engine = opened.with_processor(arm.processor)
    weight = settings.options.mi_weight
    assert not isinstance(weight, str), "the bundled models have a fixed λ"
    measured = {}
    for question in questions:
        shown = bounded(question, arm.max_side)
        opened.peak.reset()
        run = await run_live(engine, settings, shown, settings.options, seed, data=arm.name)
        # The statistics of the last step come after its tokens.
        await asyncio.sleep(0)
        blocks = round(opened.peak.usage * (opened.blocks - 1))
        conversation = shown.conversation().with_instruction(settings.instruction)
        context = RequestContext(f"mi-{arm.name}-{question.key}")
        image = await engine.render(conversation, context)
        text = await engine.render(conversation.with_images(None), context)
        opening = engine.encode(settings.tags.description[0])
        suffixes = [(*opening, *tokens) for tokens in descriptions[question.key]]
        terms = [
            await engine.score(
                rendered, suffixes, replace(context, request_id=f"{context.request_id}-{name}")
            )
            for name, rendered in (("image", image), ("text", text))
        ]
        skip = len(opening)
        measured[question.key] = Measured(
            run.answer,
            run.right,
            tuple(
                sum(a - weight * b for a, b in zip(shown_[skip:], blind[skip:], strict=True))
                / (len(shown_) - skip)
                for shown_, blind in zip(*terms, strict=True)
            ),
            image.prompt_tokens,
            run.generated_tokens + run.scored_tokens,
            blocks,
        )
        advance()
    return measured
