"""Log-probabilities of suffixes by vLLM's `prompt_logprobs`, in token-bounded batches.

vLLM keeps no log-probabilities for cached blocks, so by default a scoring request skips the prefix cache
(vllm#23399), and every suffix pays for the whole prompt again. That is cheap for the short text-only prompts
of the default estimator. A long prompt (with images) is put into the cache first. If the cache then covers
everything before the first wanted token, values are missing; the suffix is scored again without the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from vllm.logprobs import FlatLogprobs
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from mirl_core.engines.common.scoring import LONG_PROMPT, Positions, Suffix
from mirl_core.engines.vllm.alternatives import last_positions
from mirl_core.errors import EngineError

Run = Callable[[Suffix, SamplingParams, str], Coroutine[Any, Any, RequestOutput | None]]
"""(suffix, sampling settings, name of the request) → the request's final output."""


async def position_reader(run: Run, prompt_tokens: int, *, prefix_caching: bool) -> Positions:
    """Return a function that scores suffixes after a prompt; a long prompt is in the prefix cache by then.

    The function raises EngineError where vLLM returns no log-probabilities, and RequestError where `top` is
    above vLLM's `max_logprobs`.

    Args:
        run: runs one vLLM request.
        prompt_tokens: length of the prompt before each suffix.
        prefix_caching: whether the engine has a prefix cache.
    """
    through_cache = prefix_caching and prompt_tokens >= LONG_PROMPT
    if through_cache:
        await run((), _params(prompt_logprobs=None), "prime")
    return partial(_positions, run, prompt_tokens, through_cache)


async def _positions(
    run: Run, prompt_tokens: int, through_cache: bool, suffix: Suffix, name: str, start: int, top: int
) -> list[dict[int, float]]:
    """Return log p by token id at each position of the suffix from `start` on: its own and the likeliest."""
    params = _params(prompt_logprobs=top, skip_reading_prefix_cache=not through_cache)
    output = await run(suffix, params, name)
    # The last token before the first wanted position predicts it, and must not come from the cache.
    if output is not None and (output.num_cached_tokens or 0) >= prompt_tokens + start:
        params = _params(prompt_logprobs=top, skip_reading_prefix_cache=True)
        output = await run(suffix, params, f"{name}-again")
    wanted = len(suffix) - start
    if output is None or not isinstance(output.prompt_logprobs, FlatLogprobs):
        raise EngineError("vLLM returned no prompt log-probabilities")
    if len(output.prompt_logprobs) <= wanted:
        raise EngineError("vLLM returned too few prompt log-probabilities")
    return last_positions(output.prompt_logprobs, wanted)


def _params(**kwargs: Any) -> SamplingParams:
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **kwargs,
    )
