"""Log-probabilities of suffixes from a vLLM server; `engines.vllm.score` gets them in process.

A long prompt is scored through the prefix cache only where the server reports how much of it was cached:
cached tokens have no values, and vLLM 0.32 then returns uninitialised memory, or fails to write it as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from mirl_core.engines.common.scoring import LONG_PROMPT, Positions, Scores, Suffix, own_logprobs
from mirl_core.errors import EngineError, RequestError

Run = Callable[[Suffix, dict[str, Any], str], Coroutine[Any, Any, Any]]
"""(suffix, sampling parameters, name of the request) → the server's answer."""


async def position_reader(run: Run, prompt_tokens: int, *, counts_cached: bool) -> Positions:
    """Return a function that scores suffixes after a prompt; a long prompt is in the prefix cache by then.

    The function raises EngineError where vLLM returns no log-probabilities, and RequestError where `top` is
    above vLLM's `max_logprobs`.

    Args:
        run: sends one request.
        prompt_tokens: length of the prompt before each suffix.
        counts_cached: whether the server reports how much of a prompt was cached.
    """
    through_cache = counts_cached and prompt_tokens >= LONG_PROMPT
    if through_cache:
        await run((), parameters(), "prime")
    return partial(_positions, run, prompt_tokens, through_cache)


async def _positions(
    run: Run, prompt_tokens: int, through_cache: bool, suffix: Suffix, name: str, start: int, top: int
) -> list[dict[int, float]]:
    """Return log p by token id at each position of the suffix from `start` on: its own and the likeliest."""
    # The last token before the first wanted position predicts it, and must not come from the cache.
    before = prompt_tokens + start
    if through_cache:
        settings = parameters(prompt_logprobs=top, skip_reading_prefix_cache=False)
        with suppress(RequestError):
            answer = await run(suffix, settings, name)
            if cached_tokens(answer, otherwise=before) < before:
                return positions(answer, suffix, start)
    settings = parameters(prompt_logprobs=top, skip_reading_prefix_cache=True)
    return positions(await run(suffix, settings, f"{name}-plain"), suffix, start)


def parameters(**more: Any) -> dict[str, Any]:
    """Return sampling parameters of a request whose sampled token is discarded."""
    return {"max_tokens": 1, "temperature": 0.0, "detokenize": False, **more}


def cached_tokens(answer: Any, otherwise: int) -> int:
    """Return how many prompt tokens came from the cache; `otherwise` if the server doesn't report it."""
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    count = details.get("cached_tokens")
    return otherwise if count is None else int(count)


def positions(answer: Any, suffix: Suffix, start: int = 0) -> list[dict[int, float]]:
    """Return log p by token id at each position, from `start` on, of the suffix that ended the prompt; nats.

    Raises:
        EngineError: the answer has no log-probabilities of the suffix.
    """
    wanted = suffix[start:]
    try:
        tail = answer["prompt_logprobs"][-len(wanted) :]
        by_position = [
            {int(token): float(entry["logprob"]) for token, entry in position.items()} for position in tail
        ]
        own_logprobs(by_position, wanted)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise EngineError("the server returned no prompt log-probabilities") from error
    return by_position


def values(answer: Any, suffix: Suffix) -> Scores:
    """Return log p of every token of the suffix that ended the prompt; nats.

    Raises:
        EngineError: the answer has no log-probabilities of the suffix.
    """
    return own_logprobs(positions(answer, suffix), suffix)
