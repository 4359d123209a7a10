"""Timers around vLLM's functions, in the engine's process and in the API's. vLLM loads `ScoreTimers` itself.

A function's time leaves out that of the timed functions that it calls. vLLM's functions
differ between versions and between its two model runners; those that don't exist are left out.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["EXTENSION", "HERE", "ScoreTimers", "Timers"]

EXTENSION = f"{__name__}.ScoreTimers"
"""The value of vLLM's `worker_extension_cls`."""
FORWARD, HEAD, PROMPT_HEAD = "model forward", "LM head of sampled tokens", "LM head of prompt positions"
SOFTMAX, RANKS = "log-softmax over the vocabulary", "top-k and ranks"
PROMPT = "prompt log-probabilities, the rest"
RUNNER = {
    "execute_model": "model runner: inputs and metadata",
    "sample_tokens": "sampler and its outputs",
    "_model_forward": FORWARD,
    "_get_prompt_logprobs_dict": PROMPT,
    "prompt_logprobs_worker.compute_prompt_logprobs": PROMPT,
    "model.compute_logits": HEAD,
    "sampler.compute_logprobs": SOFTMAX,
    "sampler.gather_logprobs": RANKS,
}
"""Methods of vLLM's model runner, by their path from it; the second model runner lacks some."""
ENGINE = {
    "vllm.v1.core.sched.scheduler:Scheduler.schedule": "scheduler",
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": "scheduler",
    "vllm.v1.serial_utils:MsgpackEncoder.encode_into": "messages, engine",
    "vllm.v1.serial_utils:MsgpackDecoder.decode": "messages, engine",
    "vllm.v1.worker.gpu.sample.prompt_logprob:compute_topk_scores": SOFTMAX,
}
"""Further functions in the engine's process."""
HERE = {
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": "requests in Python",
    "vllm.v1.engine.output_processor:OutputProcessor.process_outputs": "outputs in Python",
    "vllm.v1.engine.logprobs:LogprobsProcessor._update_prompt_logprobs": "log-probabilities in Python",
    "vllm.v1.serial_utils:MsgpackEncoder.encode": "messages, API process",
    "vllm.v1.serial_utils:MsgpackDecoder.decode": "messages, API process",
    "mirl_core.engines.vllm.score:last_positions": "log-probabilities in Python",
}
"""Functions in the process of the API."""


class Timers:
    """Seconds by name of timed functions, without those of the timed functions that they call."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._local = threading.local()

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return `function` with a timer. The LM head has another name within prompt log-probabilities."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            running: list[tuple[str, list[float]]] = self._local.__dict__.setdefault("running", [])
            actual = PROMPT_HEAD if name == HEAD and any(outer == PROMPT for outer, _ in running) else name
            inner = [0.0]
            running.append((actual, inner))
            started = _now()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = _now() - started
                running.pop()
                self._seconds[actual] += elapsed - inner[0]
                if running:
                    running[-1][1][0] += elapsed

        return timed

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call."""
        taken, self._seconds = dict(self._seconds), Counter()
        return taken

    @contextmanager
    def around(self, functions: Mapping[str, str]) -> Iterator[None]:
        """Time functions within the block.

        Args:
            functions: names of timers by `module:function` or `module:Class.method`.
        """
        plain = []
        for path, name in functions.items():
            module, _, attribute = path.partition(":")
            owner, last = _owner(importlib.import_module(module), attribute)
            if owner is not None:
                plain.append((owner, last, owner.__dict__[last]))
                setattr(owner, last, self.timed(getattr(owner, last), name))
        try:
            yield
        finally:
            for owner, last, function in plain:
                setattr(owner, last, function)


class ScoreTimers:
    """Adds RPCs to vLLM's worker: the timers of its engine process."""

    model_runner: Any

    def mirl_start_timers(self) -> None:
        """Start timing; a second call changes nothing."""
        if hasattr(self, "mirl_timers"):
            return
        self.mirl_timers = Timers()
        for path, name in RUNNER.items():
            owner, last = _owner(self.model_runner, path)
            if owner is not None:
                setattr(owner, last, self.mirl_timers.timed(getattr(owner, last), name))
        # The engine's process ends with the benchmark: nothing is put back.
        self.mirl_around = self.mirl_timers.around(ENGINE)
        self.mirl_around.__enter__()

    def mirl_take_timers(self) -> dict[str, float]:
        """Return the seconds by name since the last call."""
        return self.mirl_timers.take()


def _owner(root: Any, path: str) -> tuple[Any, str]:
    """Return the object that has the last attribute of a path, and its name; None where it is missing."""
    *parents, last = path.split(".")
    for name in parents:
        root = getattr(root, name, None)
    return (root if hasattr(root, last) else None), last


def _now() -> float:
    """Return the clock's seconds once the GPU has no work left."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
