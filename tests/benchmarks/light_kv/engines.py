"""The engines compared: vLLM with a type of KV cache, or transformers with rounded keys and values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers.cache_utils import DynamicLayer

from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError

__all__ = ["Opened", "Peak", "bytes_per_token", "on_transformers", "on_vllm", "rounding"]

ROUNDED = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
"""Types of a KV cache below the model's own, by vLLM's names."""


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

    engine: Engine
    peak: Peak
    blocks: int
    """KV blocks of the engine; 0: it has none."""
    block_tokens: int
    bytes_per_token: int
    """Of the KV cache."""

    def with_processor(self, arguments: Mapping[str, Any]) -> Engine:
        """Return an engine on the same client that hands `arguments` to the image processor.

        Raises:
            ConfigError: the engine is not vLLM.
        """
        if not arguments:
            return self.engine
        from vllm.renderers import ChatParams

        from mirl_core.engines.vllm.engine import VLLMEngine

        if not isinstance(self.engine, VLLMEngine):
            raise ConfigError("arms: the processor's arguments are measured on vLLM only", param="arms")
        return VLLMEngine(self.engine.client, chat=ChatParams(mm_processor_kwargs=dict(arguments)))


@asynccontextmanager
async def on_vllm(folder: Path, kv_cache_dtype: str, kv_cache_bytes: int) -> AsyncIterator[Opened]:
    """Yield vLLM on the model with this KV cache, with the product's arguments for engines in process.

    Raises:
        EngineError, ValueError, RuntimeError: vLLM refuses the type of the cache, or can't start.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
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
        model_config = client.vllm_config.model_config
        size = kv_cache_dtype_str_to_dtype(kv_cache_dtype, model_config).itemsize
        each = bytes_per_token(model_config.hf_text_config, size)
        block = int(cache.block_size)
        yield Opened(engine, peak, int(cache.num_gpu_blocks or kv_cache_bytes // (block * each)), block, each)
    finally:
        await engine.close()


@asynccontextmanager
async def on_transformers(folder: Path, kv_cache_dtype: str) -> AsyncIterator[Opened]:
    """Yield transformers on the model in float32, keys and values rounded as a cache of this type holds them.

    As in vLLM without calibrated scales, the scale is 1: what is too large for the type becomes its largest.
    The engine has no blocks, and the bytes are those that a cache of the type would take.

    Raises:
        EngineError: transformers can't load the model.
    """
    from transformers import AutoConfig

    from mirl_core.engines.hf.engine import HFEngine

    engine = await HFEngine.start(str(folder), dtype=torch.float32)
    text = AutoConfig.from_pretrained(folder).get_text_config()
    rounded = ROUNDED.get(kv_cache_dtype)
    try:
        with rounding(rounded) if rounded is not None else nullcontext():
            size = (rounded or torch.float32).itemsize
            yield Opened(engine, Peak(), 0, 0, bytes_per_token(text, size))
    finally:
        await engine.close()


@contextmanager
def rounding(dtype: torch.dtype) -> Iterator[None]:
    """Round the keys and values of every new cache entry of transformers to `dtype`, inside the context."""
    largest = torch.finfo(dtype).max
    update = DynamicLayer.update

    def rounded(states: torch.Tensor) -> torch.Tensor:
        return states.clamp(-largest, largest).to(dtype).to(states.dtype)

    def rounded_update(layer: Any, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        return update(layer, rounded(key_states), rounded(value_states), *args, **kwargs)

    with patch.object(DynamicLayer, "update", rounded_update):
        yield


def bytes_per_token(text: Any, size: int) -> int:
    """Return the bytes that a token's keys and values take in all layers.

    Args:
        text: the configuration of the language model.
        size: of a value; bytes.
    """
    head = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return 2 * int(text.num_hidden_layers) * int(text.num_key_value_heads) * head * size
