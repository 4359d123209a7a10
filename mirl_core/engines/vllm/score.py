"""Log-probabilities of suffixes by vLLM's `prompt_logprobs`, in token-bounded batches.

vLLM keeps no log-probabilities for cached blocks, so by default a scoring request skips the prefix cache
(vllm#23399), and every suffix pays for the whole prompt again. That is cheap for the short text-only prompts
of the default estimator. A long prompt (with images) is put into the cache first. If the cache then covers
more than the prompt, those suffix tokens have no values, and the suffix is scored again without the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.engines.common.scoring import LONG_PROMPT, Scores, Suffix, batches
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
    through_cache = prefix_caching and prompt_tokens >= LONG_PROMPT
    if through_cache:
        await run((), _params(prompt_logprobs=None), "prime")
    scores: dict[Suffix, Scores] = {}
    for group in batches(suffixes, prompt_tokens, limit):
        params = _params(prompt_logprobs=0, skip_reading_prefix_cache=not through_cache)
        outputs = await gather_or_cancel(
            run(suffix, params, f"{len(scores)}-{i}") for i, suffix in enumerate(group)
        )
        for suffix, output in zip(group, outputs, strict=True):
            if output is not None and (output.num_cached_tokens or 0) >= prompt_tokens:
                plain = _params(prompt_logprobs=0, skip_reading_prefix_cache=True)
                output = await run(suffix, plain, f"{len(scores)}-again")
            scores[suffix] = _values(output, suffix)
    return scores


def _params(**kwargs: Any) -> SamplingParams:
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **kwargs,
    )


def _values(output: RequestOutput | None, suffix: Suffix) -> Scores:
    if output is None or output.prompt_logprobs is None:
        raise EngineError("vLLM returned no prompt log-probabilities")
    tail = output.prompt_logprobs[-len(suffix) :]
    return tuple(float(position[token].logprob) for position, token in zip(tail, suffix, strict=True))
