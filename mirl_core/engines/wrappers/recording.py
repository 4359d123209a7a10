"""An engine that remembers what the one inside it sampled: token ids and raw log-probabilities by request.

The pipeline's result keeps texts and sums; whoever trains on a run, or banks it, needs every token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.wrappers.forwarding import ForwardingEngine
from mirl_core.types import Conversation

__all__ = ["RecordingEngine"]


class RecordingEngine(ForwardingEngine):
    """Passes every call on, keeps the samples, and renders each conversation once. One per question: nothing
    is ever forgotten."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._samples: dict[tuple[str, int], Sample] = {}
        self._rendered: list[tuple[Conversation, Rendered]] = []

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        for known, rendered in self._rendered:
            if _same(known, conversation):
                return rendered
        rendered = await self._engine.render(conversation, context)
        self._rendered.append((conversation, rendered))
        return rendered

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        source = self._engine.generate(rendered, suffix_ids, n, sampling, context)
        async with aclosing(source):
            async for sample in source:
                self._samples[context.request_id, sample.index] = sample
                yield sample

    def sample(self, context: RequestContext, stage: str, index: int) -> Sample:
        """What branch `index` sampled in a stage (`describe`, `fork-3`, `plain`) of the pipeline's request.

        Raises:
            KeyError: no such branch has ended.
        """
        return self._samples[f"{context.request_id}-{stage}", index]


def _same(one: Conversation, other: Conversation) -> bool:
    """Whether two conversations are equal and show the same objects; pixels aren't compared."""
    pictures, others = one.images, other.images
    return (
        len(pictures) == len(others)
        and all(mine is yours for mine, yours in zip(pictures, others, strict=True))
        and one.with_images(None) == other.with_images(None)
    )
