"""An engine that records the samples of the engine inside it: token ids and raw log-probabilities by request.

The pipeline's result has only texts and sums; training on a run, or banking it, needs every token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.wrappers.forwarding import ForwardingEngine
from mirl_core.types import Conversation

__all__ = ["RecordingEngine"]


class RecordingEngine(ForwardingEngine):
    """Passes every call on, keeps the samples, and renders each conversation once.

    It never drops a sample: use a new one for each question.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._samples: dict[tuple[str, int], Sample] = {}
        self._rendered: list[tuple[Conversation, Rendered]] = []

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        for earlier, rendered in self._rendered:
            if _same(earlier, conversation):
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
        """Return the sample of branch `index` in a stage (`describe`, `fork-3`, `plain`) of a request.

        Args:
            context: the context of the pipeline's request.
            stage: the stage's name.
            index: the branch's index in the stage.

        Raises:
            KeyError: no such branch has ended.
        """
        return self._samples[f"{context.request_id}-{stage}", index]


def _same(first: Conversation, second: Conversation) -> bool:
    """Return whether conversations are equal and have the same image objects; pixels aren't compared."""
    return (
        len(first.images) == len(second.images)
        and all(image is other for image, other in zip(first.images, second.images, strict=True))
        and first.with_images(None) == second.with_images(None)
    )
