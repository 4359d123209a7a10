"""How MIRL starts vLLM, and what it must know about a running one before it samples."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(r"(image|video|audio|vision)\w*_token_(id|index)")


def cpu_engine_args() -> dict[str, Any]:
    """Engine arguments under which vLLM's CPU backend serves MIRL's traffic; none of them for a GPU.

    - No chunked prefill: on the CPU a request that has a seed and whose prefill is split into chunks kills
      the engine ("CPU Generator does not use offset", seen with vLLM 0.32). vLLM then takes at least
      `max_model_len` as `max_num_batched_tokens` by itself.
    - Blocks of 32 tokens, the smallest that the CPU kernels like: with the default of 128 the short prompts
      of forks would share no cached block.
    - A fixed cache size and no compilation: the engine starts without a profiling run and a warm-up.
    """
    return {
        "enable_chunked_prefill": False,
        "enable_prefix_caching": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 2**30,
        "enforce_eager": True,
        "max_num_seqs": 256,
    }


def cpu_environment() -> dict[str, str]:
    """Environment for a CPU engine, to be set where unset, before vLLM is imported.

    On few cores vLLM's own binding pins the engine to one core and leaves the scheduler no say; two compute
    threads beside a busy API server are slower than one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 4:
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, cores - 1))}


def on_cpu() -> bool:
    """Whether the vLLM that is installed runs on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def seeds_are_safe(vllm_config: Any) -> bool:
    """Whether a request may carry a seed without endangering the engine (see `cpu_engine_args`)."""
    return not (on_cpu() and vllm_config.scheduler_config.enable_chunked_prefill)


def placeholder_ids(model_config: Any) -> tuple[int, ...]:
    """Tokens that stand for media in a prompt: sampled, they would ask the model for media that isn't there."""
    config = model_config.hf_config
    found = {
        value
        for name, value in vars(config).items()
        if _PLACEHOLDER.fullmatch(name)
        and isinstance(value, int)
        and 0 <= value < model_config.get_vocab_size()
    }
    return tuple(sorted(found))


def checked_logprobs_mode(model_config: Any) -> None:
    """Refuse an engine whose log-probabilities are not the model's own.

    Raises:
        ConfigError: `--logprobs-mode` is not `raw_logprobs`.
    """
    from mirl_core.errors import ConfigError

    mode = model_config.logprobs_mode
    if mode != "raw_logprobs":
        raise ConfigError(
            f"vLLM runs with --logprobs-mode {mode}; mutual information needs raw_logprobs, its default",
            param="logprobs_mode",
        )


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`."""
    return {**defaults, **given}
