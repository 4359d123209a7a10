"""An engine wrapper that records one request's engine calls, and the work that vLLM had for each.

The work is counted from token ids after the request, so that the recording takes no time. The contents of
vLLM's prefix cache follow from the calls before.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from mirl_core.algorithm.costs import Work
from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.common.scoring import LONG_PROMPT
from mirl_core.engines.wrappers.forwarding import ForwardingEngine
from mirl_core.types import Conversation

__all__ = ["Meter", "rounds"]

_STAGE = re.compile(r"-(describe|score|fork|plain|sample)(?=-|$)")
Tokens = tuple[int, ...]


@dataclass(slots=True)
class _Call:
    """A recorded call."""

    kind: str
    stage: str
    start: float
    rendered: int = 0
    """Key of the rendering."""
    prompt: int = 0
    suffixes: tuple[Tokens, ...] = ()
    n: int = 0
    images: int = 0
    end: float = 0.0
    samples: list[Tokens] = field(default_factory=list)


class Meter(ForwardingEngine):
    """Passes every call of one request on, and records it: use a new one for each request."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._calls: list[_Call] = []
        self._images: dict[int, int] = {}
        self._kept: list[Rendered] = []

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        call = self._begin(_Call("render", "render", time.perf_counter(), images=len(conversation.images)))
        rendered = await self._engine.render(conversation, context)
        call.end = time.perf_counter()
        # Kept, so that no later rendering has the same id.
        self._kept.append(rendered)
        self._images[id(rendered)] = call.images
        return rendered

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        call = self._begin(self._called("generate", rendered, [suffix_ids], n, context))
        try:
            async with aclosing(self._engine.generate(rendered, suffix_ids, n, sampling, context)) as source:
                async for sample in source:
                    call.samples.append(sample.token_ids)
                    call.end = time.perf_counter()
                    yield sample
        finally:
            call.end = call.end or time.perf_counter()

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        distinct = list(dict.fromkeys(map(tuple, suffixes)))
        call = self._begin(self._called("score", rendered, distinct, len(distinct), context))
        scores = await self._engine.score(rendered, suffixes, context)
        call.end = time.perf_counter()
        return scores

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        call = self._begin(self._called("score", rendered, [suffix_ids], 1, context))
        try:
            return await self._engine.score_likeliest(rendered, suffix_ids, start, top, context)
        finally:
            call.end = time.perf_counter()

    def works(self, block: int) -> tuple[Work, ...]:
        """Return the work of every call that ended, in the order in which they started.

        Args:
            block: size of a block of vLLM's KV cache; tokens.
        """
        cache = _PrefixCache(self._images, block)
        started = [call for call in self._calls if call.end]
        zero = started[0].start if started else 0.0
        return tuple(cache.work(call, zero) for call in started)

    def _begin(self, call: _Call) -> _Call:
        self._calls.append(call)
        return call

    def _called(
        self,
        kind: str,
        rendered: Rendered,
        suffixes: Sequence[Sequence[int]],
        n: int,
        context: RequestContext,
    ) -> _Call:
        stages = _STAGE.findall(context.request_id)
        stage = stages[-1] if stages else kind
        now = time.perf_counter()
        return _Call(kind, stage, now, id(rendered), rendered.prompt_tokens, tuple(map(tuple, suffixes)), n)


class _PrefixCache:
    """The sequences of a request in vLLM's prefix cache, which holds the full blocks of each.

    The last token before a sample is never read from the cache, since its output is needed.
    """

    def __init__(self, images: dict[int, int], block: int) -> None:
        self._images = images
        self._block = block
        self._known: dict[int, list[Tokens]] = {}

    def work(self, call: _Call, zero: float) -> Work:
        start, end = call.start - zero, call.end - zero
        if call.kind == "render":
            return Work("render", start, end, images=call.images)
        if call.kind == "score":
            return Work(call.stage, start, end, call.n, scored=self._scored(call), images=self._encoded(call))
        (suffix,) = call.suffixes
        images = self._encoded(call)
        first = self._missing(call, suffix)
        self._enter(call, suffix)
        others = (call.n - 1) * self._missing(call, suffix)
        for sample in call.samples:
            self._enter(call, (*suffix, *sample[:-1]))
        return Work(
            call.stage,
            start,
            end,
            call.n,
            prefill=first + others,
            steps=max(map(len, call.samples), default=0),
            generated=sum(map(len, call.samples)),
            images=images,
        )

    def _encoded(self, call: _Call) -> int:
        """Return how many images the call encodes: those of a rendering that no call used before."""
        return 0 if call.rendered in self._known else self._images.get(call.rendered, 0)

    def _scored(self, call: _Call) -> int:
        """Return the tokens of scoring passes; only a long prompt is read from the cache."""
        self._known.setdefault(call.rendered, [])
        if call.prompt < LONG_PROMPT:
            return sum(call.prompt + len(suffix) for suffix in call.suffixes)
        tokens = self._missing(call, ())
        self._enter(call, ())
        return tokens + sum(self._missing(call, ()) + len(suffix) for suffix in call.suffixes)

    def _missing(self, call: _Call, suffix: Tokens) -> int:
        """Return how many tokens of prompt and suffix are in no full block of a known sequence."""
        length = call.prompt + len(suffix)
        common = max(
            (call.prompt + _common(suffix, known) for known in self._known.get(call.rendered, ())), default=0
        )
        cached = min(common, length - 1) // self._block * self._block
        return length - cached

    def _enter(self, call: _Call, suffix: Tokens) -> None:
        self._known.setdefault(call.rendered, []).append(suffix)


def rounds(works: Sequence[Work]) -> int:
    """Return the most engine calls that ran one after the other, renderings left out."""
    count, free = 0, float("-inf")
    for work in sorted(works, key=lambda work: work.end):
        if work.stage != "render" and work.start >= free:
            count, free = count + 1, work.end
    return count


def _common(first: Tokens, second: Tokens) -> int:
    """Return the length of the longest common prefix."""
    length = 0
    for token, other in zip(first, second, strict=False):
        if token != other:
            break
        length += 1
    return length
