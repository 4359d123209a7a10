"""Runs of an arm on the questions: the answer of a gated request, the MI of fixed descriptions, KV blocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.evaluation.bank.live import run_live
from mirl_core.tasks.questions import Question, question_seed
from tests.benchmarks.light_kv.arms import Arm, bounded

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

__all__ = [
    "DESCRIPTIONS",
    "Measured",
    "Opened",
    "bytes_per_token",
    "measure",
    "opened",
    "sample_descriptions",
]

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
    """KV blocks in use at the request's peak."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Measured:
        """Return the inverse of `to_json`."""
        return cls(**{**entry, "mi": tuple(entry["mi"])})


class Peak:
    """The most KV blocks in use since `reset`, from vLLM's scheduler."""

    def __init__(self) -> None:
        self.usage = 0.0

    def reset(self) -> None:
        """Forget what was."""
        self.usage = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A running engine."""

    engine: VLLMEngine
    peak: Peak
    blocks: int
    """KV blocks of the engine."""
    block_tokens: int
    bytes_per_token: int
    """Of the KV cache."""

    def with_processor(self, arguments: Mapping[str, Any]) -> VLLMEngine:
        """Return an engine on the same client that hands `arguments` to the image processor."""
        from vllm.renderers import ChatParams

        from mirl_core.engines.vllm.engine import VLLMEngine

        if not arguments:
            return self.engine
        return VLLMEngine(self.engine.client, chat=ChatParams(mm_processor_kwargs=dict(arguments)))


@asynccontextmanager
async def opened(folder: Path, kv_cache_dtype: str, kv_cache_bytes: int) -> AsyncIterator[Opened]:
    """Yield vLLM on the model with this KV cache, with the product's arguments for engines in process.

    Raises:
        EngineError, ValueError, RuntimeError: vLLM refuses the type of the cache, or can't start.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    from mirl_core.engines.vllm.arguments import cpu_engine_args, cpu_environment, environment, on_cpu
    from mirl_core.engines.vllm.engine import VLLMEngine

    peak = Peak()

    class PeakLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(
            self,
            scheduler_stats: Any,
            iteration_stats: Any,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            if scheduler_stats is not None:
                peak.usage = max(peak.usage, scheduler_stats.kv_cache_usage)

        def log_engine_initialized(self) -> None:
            pass

    own = {"kv_cache_dtype": kv_cache_dtype, "kv_cache_memory_bytes": kv_cache_bytes}
    args = cpu_engine_args(own) if on_cpu() else own
    with environment(cpu_environment(args) if on_cpu() else {}):
        client = AsyncLLM.from_engine_args(
            AsyncEngineArgs(model=str(folder), **args), stat_loggers=[PeakLogger]
        )
    engine = VLLMEngine(client, owns_client=True)
    try:
        cache = client.vllm_config.cache_config
        each = bytes_per_token(client.vllm_config.model_config, kv_cache_dtype)
        block = int(cache.block_size)
        yield Opened(engine, peak, int(cache.num_gpu_blocks or kv_cache_bytes // (block * each)), block, each)
    finally:
        await engine.close()


def bytes_per_token(model_config: Any, kv_cache_dtype: str) -> int:
    """Return the bytes that a token's keys and values take in all layers."""
    from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

    text = model_config.hf_text_config
    heads = int(text.num_key_value_heads) * int(getattr(text, "head_dim", 0) or model_config.get_head_size())
    size = kv_cache_dtype_str_to_dtype(kv_cache_dtype, model_config).itemsize
    return int(2 * text.num_hidden_layers * heads * size)


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
