"""Arguments and environment with which MIRL starts vLLM, and checks of a running engine's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mirl_core.errors import ConfigError


def cpu_engine_args(overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return engine arguments for MIRL's traffic on vLLM's CPU backend: defaults, then `overrides`.

    The launcher turns the defaults that the user doesn't override into flags. `cpu_environment` goes with
    them.

    - No chunked prefill: on the CPU a request that has a seed and whose prefill is split into chunks kills
      the engine ("CPU Generator does not use offset", seen with vLLM 0.32). vLLM then takes at least
      `max_model_len` as `max_num_batched_tokens` by itself.
    - Blocks of 32 tokens, the smallest that the CPU kernels like: with the default of 128 the short prompts
      of forks would share no cached block.
    - A fixed cache size and no compilation: the engine starts without a profiling run and a warm-up, and no
      request waits for a C++ compiler.
    - The model runs in the engine's process: one process fewer to start (10 s of imports on a slow core), and
      no message between processes at every step.
    """
    overrides = dict(overrides or {})
    defaults: dict[str, Any] = {
        "enable_chunked_prefill": False,
        "enable_prefix_caching": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 2**30,
        "enforce_eager": True,
        "max_num_seqs": 256,
    }
    if all(int(overrides.get(f"{kind}_parallel_size") or 1) == 1 for kind in ("tensor", "pipeline", "data")):
        defaults["distributed_executor_backend"] = "uni"
    return defaults | overrides


def cpu_environment(engine_args: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that goes with `engine_args`: to be set, where unset, before the start."""
    environment = {}
    if engine_args.get("distributed_executor_backend") == "uni":
        # Without this vLLM's CPU backend always starts a worker process.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if engine_args.get("enforce_eager"):
        # `enforce_eager` alone leaves small functions of the sampler compiled: 20 s at the first request.
        environment["TORCH_COMPILE_DISABLE"] = "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores <= 4:
        # vLLM's default binding pins the engine to fixed cores, whatever else runs on them; two compute
        # threads beside a busy API server are slower than one.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        environment["OMP_NUM_THREADS"] = str(max(1, cores - 1))
    return environment


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block, where they are unset."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def on_cpu() -> bool:
    """Return whether the installed vLLM runs on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def seeds_are_safe(vllm_config: Any) -> bool:
    """Return whether a seeded request leaves the engine alive (see `cpu_engine_args`)."""
    return not (on_cpu() and vllm_config.scheduler_config.enable_chunked_prefill)


def checked_logprobs_mode(model_config: Any) -> None:
    """Refuse an engine whose log-probabilities are not raw.

    Raises:
        ConfigError: `--logprobs-mode` is not `raw_logprobs`.
    """
    mode = model_config.logprobs_mode
    if mode != "raw_logprobs":
        raise ConfigError(
            f"vLLM runs with --logprobs-mode {mode}; mutual information needs raw_logprobs, its default",
            param="logprobs_mode",
        )
