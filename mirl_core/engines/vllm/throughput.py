"""The engine that fills banks: vLLM with settings for throughput."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

CONCURRENCY = 16
"""Questions in flight: some 500 branches, which is where more stopped being faster on a CPU."""


async def start_engine(model: str | Path, **engine_args: Any) -> VLLMEngine:
    """vLLM for `model`; `engine_args` (fields of vLLM's `AsyncEngineArgs`) over the evaluation's settings.

    On the CPU weights are read as float32. Few CPUs calculate in bfloat16 (one that doesn't takes twice as
    long for it), and scores are then free of its rounding. Room for 512 branches at once, so that no question
    waits for another one's last chain.

    Raises:
        EngineError: vLLM doesn't start.
    """
    from mirl_core.engines.vllm.arguments import on_cpu
    from mirl_core.engines.vllm.engine import VLLMEngine

    settings: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 512} if on_cpu() else {}
    return await VLLMEngine.start(str(model), **(settings | engine_args))
