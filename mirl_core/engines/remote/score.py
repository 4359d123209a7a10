"""Log-probabilities of given suffixes from a vLLM server, as `_vllm_score` has them in process.

A long prompt is scored through the prefix cache only where the server tells how much of it was cached: what
was has no values, and vLLM 0.32 then answers whatever its memory held, or fails to say that in JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.engines.common.scoring import LONG_PROMPT, Scores, Suffix, batches
from mirl_core.errors import EngineError, RequestError

Run = Callable[[Suffix, dict[str, Any], str], Coroutine[Any, Any, Any]]
"""(suffix, sampling parameters, a name for the request) → the server's answer."""


async def score_suffixes(
    run: Run, prompt_tokens: int, suffixes: Sequence[Suffix], limit: int, *, counts_cached: bool
) -> dict[Suffix, Scores]:
    """Raw nats per token of each suffix."""
    through_cache = counts_cached and prompt_tokens >= LONG_PROMPT
    if through_cache:
        await run((), parameters(), "prime")

    async def score(suffix: Suffix, name: str) -> Scores:
        if through_cache:
            settings = parameters(prompt_logprobs=0, skip_reading_prefix_cache=False)
            with suppress(RequestError):
                answer = await run(suffix, settings, name)
                if cached_tokens(answer, otherwise=prompt_tokens) < prompt_tokens:
                    return values(answer, suffix)
        settings = parameters(prompt_logprobs=0, skip_reading_prefix_cache=True)
        return values(await run(suffix, settings, f"{name}-plain"), suffix)

    scores: dict[Suffix, Scores] = {}
    for group in batches(suffixes, prompt_tokens, limit):
        found = await gather_or_cancel(score(suffix, f"{len(scores)}-{i}") for i, suffix in enumerate(group))
        scores |= dict(zip(group, found, strict=True))
    return scores


def parameters(**more: Any) -> dict[str, Any]:
    """Sampling parameters of a request that samples nothing of interest."""
    return {"max_tokens": 1, "temperature": 0.0, "detokenize": False, **more}


def cached_tokens(answer: Any, otherwise: int) -> int:
    """How much of a prompt came from the cache, if the server tells."""
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    told = details.get("cached_tokens")
    return otherwise if told is None else int(told)


def values(answer: Any, suffix: Suffix) -> Scores:
    """Log p of every token of the suffix that ended the prompt; nats."""
    try:
        tail = answer["prompt_logprobs"][-len(suffix) :]
        return tuple(
            float(position[str(token)]["logprob"]) for position, token in zip(tail, suffix, strict=True)
        )
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError("the server returned no prompt log-probabilities") from error
