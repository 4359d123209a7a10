"""Log-probabilities of suffixes by vLLM's `prompt_logprobs`, in token-bounded batches.

vLLM keeps no log-probabilities for cached blocks, so by default a scoring request skips the prefix cache
(vllm#23399), and every suffix pays for the whole prompt again. That is cheap for the short text-only prompts
of the default estimator. A long prompt (with images) is put into the cache first. If the cache then covers
everything before the first wanted token, values are missing; the suffix is scored again without the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from vllm.logprobs import FlatLogprobs
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.engines.common.scoring import LONG_PROMPT, Scores, Suffix, batches, own_logprobs
from mirl_core.engines.vllm.alternatives import last_positions
from mirl_core.errors import EngineError

Run = Callable[[Suffix, SamplingParams, str], Coroutine[Any, Any, RequestOutput | None]]
"""(suffix, sampling settings, name of the request) → the request's final output."""


async def score_suffixes(
    run: Run, prompt_tokens: int, suffixes: Sequence[Suffix], limit: int, *, prefix_caching: bool
) -> dict[Suffix, Scores]:
    """Return raw log p of every token of each suffix, nats.

    Args:
        run: runs one vLLM request.
        prompt_tokens: length of the prompt before each suffix.
        suffixes: distinct and not empty.
        limit: most prompt-plus-suffix tokens in flight.
        prefix_caching: whether the engine has a prefix cache.

    Raises:
        EngineError: vLLM returns no log-probabilities.
    """
    through_cache = await _through_cache(run, prompt_tokens, prefix_caching)
    scores: dict[Suffix, Scores] = {}
    for group in batches(suffixes, prompt_tokens, limit):
        positions = await gather_or_cancel(
            _positions(run, prompt_tokens, suffix, f"{len(scores)}-{i}", through_cache=through_cache)
            for i, suffix in enumerate(group)
        )
        scores |= zip(group, map(own_logprobs, positions, group), strict=True)
    return scores


async def score_likeliest(
    run: Run, prompt_tokens: int, suffix: Suffix, start: int, top: int, *, prefix_caching: bool
) -> list[dict[int, float]]:
    """Return raw log p by token id at each position of the suffix from `start` on; nats.

    Args:
        run: runs one vLLM request.
        prompt_tokens: length of the prompt before the suffix.
        suffix: longer than `start`.
        start: first position of the suffix that is wanted.
        top: how many of the likeliest tokens each position has, beside the suffix's own.
        prefix_caching: whether the engine has a prefix cache.

    Raises:
        EngineError: vLLM returns no log-probabilities.
        RequestError: `top` is above vLLM's `max_logprobs`.
    """
    through_cache = await _through_cache(run, prompt_tokens, prefix_caching)
    return await _positions(run, prompt_tokens, suffix, "0", start, top, through_cache=through_cache)


async def _through_cache(run: Run, prompt_tokens: int, prefix_caching: bool) -> bool:
    """Return whether to score through the prefix cache; if so, the prompt is in it now."""
    if not prefix_caching or prompt_tokens < LONG_PROMPT:
        return False
    await run((), _params(prompt_logprobs=None), "prime")
    return True


async def _positions(
    run: Run,
    prompt_tokens: int,
    suffix: Suffix,
    name: str,
    start: int = 0,
    top: int = 0,
    *,
    through_cache: bool,
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
