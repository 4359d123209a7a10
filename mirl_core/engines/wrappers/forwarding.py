"""The base class of engines around another engine: subclasses override only the calls that they change."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.types import Conversation

__all__ = ["ForwardingEngine"]


class ForwardingEngine:
    """Passes every call on to `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def max_model_len(self) -> int:
        return self._engine.max_model_len

    def encode(self, text: str) -> tuple[int, ...]:
        return self._engine.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._engine.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        return self._engine.token_text(token_id)

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        return await self._engine.render(conversation, context)

    def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        return self._engine.generate(rendered, suffix_ids, n, sampling, context)

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        return await self._engine.score(rendered, suffixes, context)

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        return await self._engine.score_likeliest(rendered, suffix_ids, start, top, context)

    async def check_structure(self, structure: str) -> None:
        await self._engine.check_structure(structure)

    async def abort(self, request_id: str) -> None:
        await self._engine.abort(request_id)

    async def health(self) -> None:
        await self._engine.health()

    async def close(self) -> None:
        await self._engine.close()
