"""How vLLM is made to score suffixes, in its process or over HTTP: which run together, when by the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

LONG_PROMPT = 256
"""Tokens from which on a prompt is scored through the prefix cache: a dozen blocks."""

Suffix = tuple[int, ...]
Scores = tuple[float, ...]
T = TypeVar("T")


def batches(suffixes: Sequence[Suffix], prompt_tokens: int, limit: int) -> list[list[Suffix]]:
    """`suffixes` in groups of at most `limit` tokens, prompts counted each time; at least one a group."""
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


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run together; if one fails or the caller is cancelled, end the others and wait for them."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
