"""Contrastive decoding of descriptions by draft and verify, on calls that every engine has.

A draft is decoded greedily with the image, and the image-free term of its tokens is scored. At the first
position where the contrast prefers another token, a second draft continues from that token. The token is
taken if the contrast, summed over the next `lookahead` tokens, is larger along the second draft than along
the first. While a draft is verified, the next one is under way.

With a look ahead of 1 the token alone decides, and the result is that of decoding token by token under both
terms. That choice is short-sighted. The tokens that an image makes likelier are mostly values. So where a
description may read "apples 9" or, more rarely, "9 apples", it would begin with the value, in the form that
the model masters less. Over several tokens both forms say the same, and the rarer form only costs likelihood.

The closing tag is chosen like any other token. A switch never takes a special token, which would end the turn
without the tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from mirl_core.algorithm.budget import may_switch
from mirl_core.algorithm.contrast import choose, contrast, plausible
from mirl_core.engines.base import Sample
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.steered.calls import Calls
from mirl_core.pipeline.steered.drafts import Bill, Drafts, Verified
from mirl_core.pipeline.steered.image_free import History, Position, Tokens, followed
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
    """Decodes the descriptions of one request; see `Drafts` for the arguments."""

    def __init__(
        self,
        request: Request,
        calls: Calls,
        start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._options = request.options
        self._engine = request.engine
        self._drafts = Drafts(request, calls, start)

    async def decode(self, index: int, weight: float) -> Decoded:
        """Return the description for λ = `weight`, closing tag included, as sample `index`."""
        state = _State(weight)
        while state.reason is None:
            draft = await self._drafts.complete(state.tokens, state.bill)
            state.reason = self._drafts.end(state.tokens + draft.token_ids, draft.finish_reason)
            if not draft.token_ids:
                # No draft of these tokens goes any further.
                state.reason = draft.finish_reason
            if weight == 0 or state.reason == "abort":
                state.tokens += draft.token_ids
                state.logprobs += draft.logprobs
            else:
                if state.reason is None:
                    # The next draft, in case this one stands.
                    self._drafts.launch(state.tokens + draft.token_ids, state.bill)
                positions = await self._drafts.positions(state.tokens, draft, state.bill)
                await self._verify(state, Verified(draft, positions))
        bill = state.bill
        return Decoded(
            Sample(index, state.tokens, state.logprobs, self._engine.decode(state.tokens), state.reason),
            self._drafts.image_free.marginals(state.history) if weight else None,
            Decoding(
                weight,
                tuple(state.switches),
                len(bill.awaited),
                state.logprobs,
                tuple(bill.awaited),
                bill.wasted,
                tuple(bill.passes.items()),
            ),
        )

    async def image_free_logprobs(self, content: Tokens) -> tuple[float, ...]:
        """Return log p of each token of a description without tags, under the estimator; nats."""
        return await self._drafts.image_free.logprobs(content)

    async def _verify(self, state: _State, verified: Verified) -> None:
        """Add the draft's tokens to the state, up to and including the first that the contrast replaces."""
        draft = verified.sample
        for index, token in enumerate(draft.token_ids):
            position, here = verified.positions[index], len(state.tokens)
            candidates = plausible(self._drafts.usable(draft, index), self._options.plausibility)
            chosen, gain = token, 0.0
            if len(candidates) > 1 and self._may_switch(state):
                marginals = await self._drafts.marginals(
                    state.tokens, state.history, position, candidates, state.bill
                )
                best = choose(candidates, marginals, state.weight)
                if best != token:
                    first = contrast(candidates[best], marginals[best], state.weight)
                    gain = await self._gain(state, verified, index, best, first)
                    chosen = best if gain > 0 else token
            state.take(chosen, candidates[chosen], position)
            if chosen != token:
                text = self._engine.token_text
                state.switches.append(Switch(here, text(token), text(chosen), gain))
                state.reason = self._drafts.end(state.tokens, None)
                return

    def _may_switch(self, state: _State) -> bool:
        """Return whether the decode's tokens allow one more look at another continuation."""
        limit = self._drafts.limit
        further = min(self._options.lookahead - 1, limit)
        most = 2 * (further + min(self._options.draft_tokens, limit)) if further else 0
        return may_switch(state.bill.drafted + most, len(state.tokens), limit)

    async def _gain(self, state: _State, verified: Verified, index: int, best: int, first: float) -> float:
        """Return by how much the contrast along another continuation exceeds that along the draft; nats.

        Both are summed over as many tokens: `lookahead`, or as many as the shorter one has.

        Args:
            index: of the draft's token that `best` would replace.
            first: the contrast of `best`.
        """
        count = self._options.lookahead
        ids = verified.sample.token_ids
        own = self._terms(state.history, verified, index, state.weight)[:count]
        if len(own) < count and verified.sample.finish_reason == "length":
            history = state.history
            for token, position in zip(ids[index:], verified.positions[index:], strict=True):
                history = followed(history, position, token)
            own += await self._continuation(state, state.tokens + ids[index:], history, count - len(own))
        # The draft may end here: what follows another token then counts no more than its own end.
        history = followed(state.history, verified.positions[index], best)
        other = [first]
        if len(own) > 1:
            other += await self._continuation(state, (*state.tokens, best), history, len(own) - 1)
        shorter = min(len(own), len(other))
        return sum(other[:shorter]) - sum(own[:shorter])

    async def _continuation(self, state: _State, tokens: Tokens, history: History, count: int) -> list[float]:
        """Return the contrast of the next `count` drafted tokens after `tokens`, or up to the end; nats."""
        terms: list[float] = []
        while len(terms) < count and self._drafts.end(tokens, None) is None:
            verified = await self._drafts.verified(tokens, state.bill)
            terms += self._terms(history, verified, 0, state.weight)
            for token, position in zip(verified.sample.token_ids, verified.positions, strict=True):
                history = followed(history, position, token)
            tokens += verified.sample.token_ids
            if verified.sample.finish_reason != "length" or not verified.sample.token_ids:
                break
        return terms[:count]

    def _terms(self, history: History, verified: Verified, start: int, weight: float) -> list[float]:
        """Return the contrast of a draft's tokens from index `start`, before which `history` is; nats."""
        sample, terms = verified.sample, []
        for index in range(start, len(sample.token_ids)):
            position, token = verified.positions[index], sample.token_ids[index]
            marginal = self._drafts.image_free.marginal(history, position, token)
            terms.append(contrast(sample.logprobs[index], marginal, weight))
            history = followed(history, position, token)
        return terms


@dataclass(slots=True)
class _State:
    """A description that is being decoded."""

    weight: float
    tokens: Tokens = ()
    logprobs: tuple[float, ...] = ()
    """Log p of each token given the image; nats."""
    history: History = ()
    switches: list[Switch] = field(default_factory=list)
    bill: Bill = field(default_factory=Bill)
    reason: FinishReason | None = None

    def take(self, token: int, logprob: float, position: Position) -> None:
        self.history = followed(self.history, position, token)
        self.tokens += (token,)
        self.logprobs += (logprob,)
