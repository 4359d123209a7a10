"""vLLM with settings for throughput, for evaluation and rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

CONCURRENCY = 16
"""Questions in flight: about 500 branches; on a CPU, more are not faster."""


async def start_engine(model: str | Path, **engine_args: Any) -> VLLMEngine:
    """Start vLLM with settings for throughput.

    On the CPU, weights are loaded as float32: few CPUs calculate in bfloat16, the others take twice as long
    for it, and float32 scores have no bfloat16 rounding. 512 sequences run at once, so that no question waits
    for the last chain of another.

    Args:
        model: folder or hub name.
        engine_args: fields of vLLM's `AsyncEngineArgs`; they override these settings.

    Raises:
        EngineError: vLLM doesn't start.
    """
    from mirl_core.engines.vllm.arguments import on_cpu
    from mirl_core.engines.vllm.engine import VLLMEngine

    settings: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 512} if on_cpu() else {}
    return await VLLMEngine.start(str(model), **(settings | engine_args))
