"""Greedy drafts of descriptions and their image-free terms, shared by all decodes of a request.

A draft depends only on the tokens before it, and its terms only on its own tokens. So decodes with different
λ share both, and neither is computed twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.engines.base import Sample, Sampling
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.steered.calls import Calls
from mirl_core.pipeline.steered.image_free import LIKELIEST, History, ImageFree, Position, Tokens
from mirl_core.types import FinishReason

__all__ = ["Bill", "Draft", "Drafts", "Verified"]


class Draft(NamedTuple):
    """A draft under way, or complete."""

    number: int
    """Counted over all drafts of the request."""
    most: int
    """Tokens that it has at most."""
    sample: asyncio.Task[Sample]


class Verified(NamedTuple):
    """A complete draft with its image-free terms."""

    sample: Sample
    """Up to the end of the closing tag."""
    positions: list[Position]
    """Of each of its tokens."""


@dataclass(slots=True)
class Bill:
    """What one decode has needed of the shared drafts and passes."""

    launched: dict[int, int] = field(default_factory=dict)
    """By number, the most tokens of each draft that it started or waited for."""
    awaited: list[int] = field(default_factory=list)
    """Numbers of the drafts that it waited for, in order."""
    passes: dict[int, int] = field(default_factory=dict)
    """By number, the tokens of each scoring pass."""

    @property
    def drafted(self) -> int:
        """Tokens of all its drafts, at most."""
        return sum(self.launched.values())

    @property
    def wasted(self) -> tuple[int, ...]:
        """Numbers of the drafts that it started and never needed."""
        return tuple(number for number in self.launched if number not in self.awaited)


class Drafts:
    """Makes the drafts of one request.

    Args:
        request: the request.
        calls: makes its engine calls.
        start: starts a task that ends with the request.
    """

    def __init__(
        self,
        request: Request,
        calls: Calls,
        start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._request = request
        self._calls = calls
        self._start = start
        self.image_free = ImageFree(request, calls)
        self._variants = ESTIMATORS[request.options.estimator].passes(len(request.references))
        self._closing = request.settings.tags.description[1]
        self.limit = request.description_limit
        """Longest description; tokens."""
        self._verifies = any(request.options.contrast)
        self._drafts: dict[Tokens, Draft] = {}
        self._positions: dict[tuple[Tokens, Tokens], asyncio.Task[list[Position]]] = {}
        self._passes: dict[Hashable, int] = {}
        self._special: dict[int, bool] = {}

    def launch(self, before: Tokens, bill: Bill) -> Draft:
        """Return the greedy draft that follows `before`, started."""
        if before not in self._drafts:
            request, left = self._request, self.limit - len(before)
            sampling = Sampling(
                max_tokens=min(request.options.draft_tokens, left) if self._verifies else left,
                temperature=0.0,
                stop=(self._closing,),
                top_logprobs=LIKELIEST if self._verifies else None,
            )
            suffix = (*request.opening, *before)
            number = len(self._drafts)
            task = self._start(
                self._calls.generate("describe", f"draft-{number}", request.rendered, suffix, sampling)
            )
            self._drafts[before] = Draft(number, sampling.max_tokens, task)
        draft = self._drafts[before]
        bill.launched[draft.number] = draft.most
        return draft

    async def complete(self, before: Tokens, bill: Bill) -> Sample:
        """Return the complete draft that follows `before`, up to the end of the closing tag."""
        draft = self.launch(before, bill)
        if draft.number not in bill.awaited:
            bill.awaited.append(draft.number)
        return self._cut(before, await draft.sample)

    async def verified(self, before: Tokens, bill: Bill) -> Verified:
        """Return the complete draft that follows `before`, with its image-free terms."""
        sample = await self.complete(before, bill)
        return Verified(sample, await self.positions(before, sample, bill))

    async def positions(self, before: Tokens, draft: Sample, bill: Bill) -> list[Position]:
        """Return the image-free terms of a draft that follows `before`."""
        key = (before, draft.token_ids)
        if key not in self._positions:
            self._positions[key] = self._start(self.image_free.positions(before, draft.token_ids))
        opening = 0 if before else len(self._request.opening)
        self._count(bill, key, self._variants * (opening + len(draft.token_ids)))
        return await self._positions[key]

    async def marginals(
        self,
        before: Tokens,
        history: History,
        position: Position,
        candidates: dict[int, float],
        bill: Bill,
    ) -> dict[int, float]:
        """Return log p of each candidate without the image; nats.

        Args:
            before: the description's tokens before the position.
            history: their image-free terms.
        """
        for missing in await self.image_free.complete(before, position, candidates):
            self._count(bill, (before, *missing), 1)
        return {token: self.image_free.marginal(history, position, token) for token in candidates}

    def usable(self, draft: Sample, index: int) -> dict[int, float]:
        """Return log p of the likeliest tokens at an index of a draft, without special ones; nats."""
        likeliest = {
            other: logprob for other, logprob in draft.likeliest[index] if not self._is_special(other)
        }
        return likeliest | {draft.token_ids[index]: draft.logprobs[index]}

    def end(self, tokens: Tokens, reason: FinishReason | None) -> FinishReason | None:
        """Return why a description ends with these tokens; None where it goes on.

        Args:
            reason: why the draft ended; None: its last token is a switch.
        """
        if reason in ("stop", "abort"):
            return reason
        if self._closing in self._request.engine.decode(tokens):
            return "stop"
        return "length" if len(tokens) >= self.limit else None

    def _count(self, bill: Bill, scoring_pass: Hashable, tokens: int) -> None:
        bill.passes[self._passes.setdefault(scoring_pass, len(self._passes))] = tokens

    def _is_special(self, token: int) -> bool:
        if token not in self._special:
            engine = self._request.engine
            self._special[token] = not engine.decode((token,)) and bool(engine.token_text(token))
        return self._special[token]

    def _cut(self, before: Tokens, draft: Sample) -> Sample:
        """Return the draft up to the end of the closing tag, which the engine misses across drafts."""
        decode = self._request.engine.decode
        ids = draft.token_ids
        if self._closing not in decode(before + ids):
            return draft
        length = next(n for n in range(1, len(ids) + 1) if self._closing in decode(before + ids[:n]))
        return replace(
            draft,
            token_ids=ids[:length],
            logprobs=draft.logprobs[:length],
            likeliest=draft.likeliest[:length],
            finish_reason="stop",
        )
