"""Log-probabilities of suffixes from a vLLM server; `engines.vllm.score` gets them in process.

A long prompt is scored through the prefix cache only where the server reports how much of it was cached:
cached tokens have no values, and vLLM 0.32 then returns uninitialised memory, or fails to write it as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.engines.common.scoring import LONG_PROMPT, Scores, Suffix, batches
from mirl_core.errors import EngineError, RequestError

Run = Callable[[Suffix, dict[str, Any], str], Coroutine[Any, Any, Any]]
"""(suffix, sampling parameters, name of the request) → the server's answer."""


async def score_suffixes(
    run: Run, prompt_tokens: int, suffixes: Sequence[Suffix], limit: int, *, counts_cached: bool
) -> dict[Suffix, Scores]:
    """Return raw log p of every token of each suffix, nats.

    Args:
        run: sends one request.
        prompt_tokens: length of the prompt before each suffix.
        suffixes: distinct and not empty.
        limit: most prompt-plus-suffix tokens in flight.
        counts_cached: whether the server reports how much of a prompt was cached.

    Raises:
        EngineError: the server returns no log-probabilities.
    """
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
        group_scores = await gather_or_cancel(
            score(suffix, f"{len(scores)}-{i}") for i, suffix in enumerate(group)
        )
        scores |= dict(zip(group, group_scores, strict=True))
    return scores


def parameters(**more: Any) -> dict[str, Any]:
    """Return sampling parameters of a request whose sampled token is discarded."""
    return {"max_tokens": 1, "temperature": 0.0, "detokenize": False, **more}


def cached_tokens(answer: Any, otherwise: int) -> int:
    """Return how many prompt tokens came from the cache; `otherwise` if the server doesn't report it."""
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    count = details.get("cached_tokens")
    return otherwise if count is None else int(count)


def values(answer: Any, suffix: Suffix) -> Scores:
    """Return log p of every token of the suffix that ended the prompt; nats.

    Raises:
        EngineError: the answer has no log-probabilities of the prompt.
    """
    try:
        tail = answer["prompt_logprobs"][-len(suffix) :]
        return tuple(
            float(position[str(token)]["logprob"]) for position, token in zip(tail, suffix, strict=True)
        )
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError("the server returned no prompt log-probabilities") from error
