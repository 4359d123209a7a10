"""The parts that the engines' scoring methods share: distinct suffixes, and batches bounded in tokens."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from mirl_core.engines.common.concurrency import gather_or_cancel

LONG_PROMPT = 256
"""Tokens from which on vLLM scores a prompt through its prefix cache: a dozen blocks."""

Suffix = tuple[int, ...]
Scores = tuple[float, ...]
Positions = Callable[[Suffix, str, int, int], Coroutine[Any, Any, list[dict[int, float]]]]
"""(suffix, name of the request, start, top) → log p by token id at each position of the suffix from `start`
on: of its own token and of the `top` likeliest; nats."""


async def score_suffixes(
    positions: Positions, prompt_tokens: int, suffixes: Sequence[Suffix], limit: int
) -> dict[Suffix, Scores]:
    """Return raw log p of every token of each suffix, nats.

    Args:
        positions: scores a suffix after the prompt.
        prompt_tokens: length of the prompt.
        suffixes: distinct and not empty.
        limit: most prompt-plus-suffix tokens in flight.
    """
    scores: dict[Suffix, Scores] = {}
    for group in batches(suffixes, prompt_tokens, limit):
        by_position = await gather_or_cancel(
            positions(suffix, f"{len(scores)}-{i}", 0, 0) for i, suffix in enumerate(group)
        )
        scores |= zip(group, map(own_logprobs, by_position, group), strict=True)
    return scores


def distinct_suffixes(suffixes: Sequence[Sequence[int]]) -> list[Suffix]:
    """Return each non-empty suffix once, in order of first appearance."""
    return list(dict.fromkeys(tuple(suffix) for suffix in suffixes if suffix))


def scores_in_order(suffixes: Sequence[Sequence[int]], scores: Mapping[Suffix, Scores]) -> list[Scores]:
    """Return the scores of every suffix, in nats per token, from those of the distinct suffixes."""
    return [scores[tuple(suffix)] if suffix else () for suffix in suffixes]


def own_logprobs(positions: Sequence[Mapping[int, float]], suffix: Suffix) -> Scores:
    """Return log p of the suffix's token at each of its positions, from log p by token id; nats.

    Raises:
        KeyError: a position doesn't have its token.
    """
    return tuple(position[token] for position, token in zip(positions, suffix, strict=True))


def batches(suffixes: Sequence[Suffix], prompt_tokens: int, limit: int) -> list[list[Suffix]]:
    """Return `suffixes` in groups of at most `limit` tokens; a group has at least one suffix.

    The prompt counts once per suffix.
    """
    groups: list[list[Suffix]] = []
    used = 0
    for suffix in suffixes:
        size = prompt_tokens + len(suffix)
        if not groups or used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(suffix)
        used += size
    return groups
