"""Contrastive decoding of descriptions by draft and verify, on calls that every engine has.

A draft is decoded greedily with the image; the image-free term of its tokens is scored; at the first position
where the contrast prefers another token, that token is taken and drafting goes on from there. The result is
that of decoding token by token under both terms, in as many rounds as there are switches and drafts instead
of tokens. While a draft is verified, the next one is under way.

The closing tag is chosen like any other token. A switch never takes a special token, which would end the turn
without the tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from mirl_core.algorithm.budget import description_limit, may_switch
from mirl_core.algorithm.contrast import choose, contrast, plausible
from mirl_core.engines.base import Sample, Sampling
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.steered.calls import Calls
from mirl_core.pipeline.steered.image_free import LIKELIEST, History, ImageFree, Position, Tokens, followed
from mirl_core.types import Decoding, FinishReason, Switch

__all__ = ["Decoded", "Decoder"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded description."""

    sample: Sample
    """Its tokens with log p given the image, as if they were sampled."""
    marginals: tuple[float, ...] | None
    """Log p of each token without the image; nats; None for λ = 0, which doesn't need it."""
    decoding: Decoding


class Decoder:
    """Decodes the descriptions of one request. All λ share drafts and scores, which don't depend on λ.

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
        self._image_free = ImageFree(request, calls)
        self._closing = request.settings.tags.description[1]
        limit = description_limit(request.options, request.sampling.max_tokens)
        self._limit = request.within_context_length(limit, len(request.opening))
        self._drafts: dict[Tokens, asyncio.Task[Sample]] = {}
        self._verified: dict[tuple[Tokens, Tokens], asyncio.Task[list[Position]]] = {}
        self._special: dict[int, bool] = {}

    async def decode(self, index: int, weight: float) -> Decoded:
        """Return the description for λ = `weight`, closing tag included, as sample `index`."""
        state = _State()
        while state.reason is None:
            draft = self._cut(state.tokens, await self._draft(state.tokens))
            state.rounds += 1
            state.drafted += len(draft.token_ids)
            state.reason = self._end(state.tokens + draft.token_ids, draft.finish_reason)
            if weight == 0 or state.reason == "abort":
                state.accept(draft)
            else:
                ahead = 0
                if state.reason is None:
                    # The next draft, in case this one stands.
                    tokens = state.tokens + draft.token_ids
                    ahead = min(self._request.options.draft_tokens, self._limit - len(tokens))
                    self._draft(tokens)
                await self._verify(state, draft, weight, ahead)
        text = self._request.engine.decode(state.tokens)
        return Decoded(
            Sample(index, state.tokens, state.logprobs, text, state.reason),
            self._image_free.marginals(state.history) if weight else None,
            Decoding(weight, tuple(state.switches), state.rounds),
        )

    async def _verify(self, state: _State, draft: Sample, weight: float, ahead: int) -> None:
        """Add the draft's tokens to the state, up to the first that the contrast replaces, and that one.

        Args:
            ahead: the next draft's tokens, which a switch wastes.
        """
        positions = await self._positions(state.tokens, draft.token_ids)
        for index, token in enumerate(draft.token_ids):
            position, here = positions[index], len(state.tokens)
            candidates = self._candidates(draft, index)
            chosen = token
            if len(candidates) > 1 and may_switch(state.drafted + ahead, here, self._limit):
                await self._image_free.complete(state.tokens, position, candidates)
                marginals = {
                    candidate: self._image_free.marginal(state.history, position, candidate)
                    for candidate in candidates
                }
                chosen = choose(candidates, marginals, weight)
            state.history = followed(state.history, position, chosen)
            state.tokens += (chosen,)
            state.logprobs += (candidates[chosen],)
            if chosen != token:
                gain = contrast(candidates[chosen], marginals[chosen], weight) - contrast(
                    candidates[token], marginals[token], weight
                )
                text = self._request.engine.token_text
                state.switches.append(Switch(here, text(token), text(chosen), gain))
                state.drafted += ahead
                state.reason = self._end(state.tokens, None)
                return

    def _candidates(self, draft: Sample, index: int) -> dict[int, float]:
        """Return log p of the plausible tokens at an index of the draft, its own among them; nats."""
        token = draft.token_ids[index]
        usable = {other: logprob for other, logprob in draft.likeliest[index] if not self._is_special(other)}
        return plausible(usable | {token: draft.logprobs[index]}, self._request.options.plausibility)

    def _is_special(self, token: int) -> bool:
        if token not in self._special:
            engine = self._request.engine
            self._special[token] = not engine.decode((token,)) and bool(engine.token_text(token))
        return self._special[token]

    def _draft(self, before: Tokens) -> asyncio.Task[Sample]:
        """Return the task of the greedy draft that follows `before`."""
        if before not in self._drafts:
            request, left = self._request, self._limit - len(before)
            verifies = any(request.options.contrast)
            sampling = Sampling(
                max_tokens=min(request.options.draft_tokens, left) if verifies else left,
                temperature=0.0,
                stop=(self._closing,),
                top_logprobs=LIKELIEST if verifies else None,
            )
            suffix = (*request.opening, *before)
            name = f"draft-{len(self._drafts)}"
            self._drafts[before] = self._start(
                self._calls.generate("describe", name, request.rendered, suffix, sampling)
            )
        return self._drafts[before]

    def _positions(self, before: Tokens, draft: Tokens) -> asyncio.Task[list[Position]]:
        """Return the task of the image-free scores of a draft."""
        key = (before, draft)
        if key not in self._verified:
            self._verified[key] = self._start(self._image_free.positions(before, draft))
        return self._verified[key]

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

    def _end(self, tokens: Tokens, reason: FinishReason | None) -> FinishReason | None:
        """Return why a description ends with these tokens; None where it goes on.

        Args:
            reason: why the draft ended; None: its last token is a switch.
        """
        if reason in ("stop", "abort"):
            return reason
        if self._closing in self._request.engine.decode(tokens):
            return "stop"
        return "length" if len(tokens) >= self._limit else None


@dataclass(slots=True)
class _State:
    """A description that is being decoded."""

    tokens: Tokens = ()
    logprobs: tuple[float, ...] = ()
    """Log p of each token given the image; nats."""
    history: History = ()
    switches: list[Switch] = field(default_factory=list)
    rounds: int = 0
    drafted: int = 0
    """Tokens of all its drafts so far, wasted ones included."""
    reason: FinishReason | None = None

    def accept(self, draft: Sample) -> None:
        self.tokens += draft.token_ids
        self.logprobs += draft.logprobs
