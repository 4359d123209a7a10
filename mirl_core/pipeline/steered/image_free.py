"""The image-free term of tokens that a decode may choose, under any estimator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from mirl_core.algorithm.mi.estimators import make_estimator
from mirl_core.algorithm.mi.scoring import without_opening
from mirl_core.engines.base import Rendered
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.steered.calls import Calls

__all__ = ["LIKELIEST", "History", "ImageFree", "Position", "Tokens", "followed"]

Tokens: TypeAlias = tuple[int, ...]
Position: TypeAlias = tuple[dict[int, float], ...]
"""By variant, log p by token at one position of a description; nats."""
History: TypeAlias = tuple[tuple[float, ...], ...]
"""By variant, log p of each token of a description so far; nats."""

LIKELIEST = 19
"""Tokens read at a position: vLLM's limit of 20, less the sampled one, which a server lists besides."""


class ImageFree:
    """Scores tokens under the estimator's variants of a request, the conversations without the true image."""

    def __init__(self, request: Request, calls: Calls) -> None:
        self._request = request
        self._calls = calls
        self._estimator = make_estimator(request.options.estimator, request.references)
        self._variants: list[Rendered] | None = None
        self._rendering = asyncio.Lock()
        self._completed: dict[Tokens, set[tuple[int, int]]] = {}

    async def positions(self, before: Tokens, draft: Tokens) -> list[Position]:
        """Return the likeliest tokens, the draft's own among them, at each position of `draft`.

        Args:
            before: the description's tokens before the draft.
        """
        opening = self._request.opening
        suffix = (*opening, *before, *draft)
        # The opening tag is scored too, once.
        start = len(opening) + len(before) if before else 0
        per_variant = await asyncio.gather(
            *(
                self._calls.score_likeliest(variant, suffix, start, LIKELIEST)
                for variant in await self._rendered()
            )
        )
        first = len(opening) + len(before) - start
        return list(zip(*(positions[first:] for positions in per_variant), strict=True))

    async def complete(
        self, before: Tokens, position: Position, tokens: Iterable[int]
    ) -> list[tuple[int, int]]:
        """Add to `position` those of `tokens` that it lacks: tokens that are unlikely without the image.

        Args:
            before: the description's tokens before the position.

        Returns:
            Variant and token of each term that needed a pass, in this call or in an earlier one.
        """
        completed = self._completed.setdefault(before, set())
        needed = [
            (k, token)
            for token in tokens
            for k, known in enumerate(position)
            if token not in known or (k, token) in completed
        ]
        missing = [(k, token) for k, token in needed if token not in position[k]]
        if missing:
            variants = await self._rendered()
            scores = await asyncio.gather(*(self._score(variants[k], before, token) for k, token in missing))
            for (k, token), score in zip(missing, scores, strict=True):
                position[k][token] = score
            completed.update(missing)
        return needed

    def marginal(self, history: History, position: Position, token: int) -> float:
        """Return the estimator's log p of a token after a description's tokens so far; nats."""
        return self._estimator.combine(followed(history, position, token))[-1]

    def marginals(self, history: History) -> tuple[float, ...]:
        """Return the estimator's log p of each token of a description; nats."""
        return self._estimator.combine(history) if history else ()

    async def logprobs(self, content: Tokens) -> tuple[float, ...]:
        """Return the estimator's log p of each token of a whole description without tags; nats."""
        opening = self._request.opening
        variants = await self._rendered()
        scores = await asyncio.gather(*(self._scores(variant, (*opening, *content)) for variant in variants))
        return without_opening(self._estimator, scores, len(opening))

    async def _scores(self, variant: Rendered, suffix: Tokens) -> tuple[float, ...]:
        with self._calls.scoring(len(suffix)) as context:
            (scores,) = await self._request.engine.score(variant, [suffix], context)
        return scores

    async def _score(self, variant: Rendered, before: Tokens, token: int) -> float:
        suffix = (*self._request.opening, *before, token)
        with self._calls.scoring(1) as context:
            (scores,) = await self._request.engine.score(variant, [suffix], context)
        return scores[-1]

    async def _rendered(self) -> list[Rendered]:
        """Return the variants; each is rendered once."""
        async with self._rendering:
            if self._variants is None:
                request = self._request
                conversations = await asyncio.to_thread(self._estimator.variants, request.prompt)
                context = request.stage_context("score")
                self._variants = list(
                    await asyncio.gather(
                        *(request.engine.render(variant, context) for variant in conversations)
                    )
                )
        return self._variants


def followed(history: History, position: Position, token: int) -> History:
    """Return the history of a description with a token more; `()` is that of the empty description."""
    earlier = history or ((),) * len(position)
    return tuple((*values, known[token]) for values, known in zip(earlier, position, strict=True))
