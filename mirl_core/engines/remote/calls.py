"""A running call of an engine, and what either way to its servers (tokens or chat) can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from mirl_core.engines.base import RequestContext, Sample, Sampling
from mirl_core.engines.common.scoring import Positions
from mirl_core.engines.remote.prompt import RenderRequest
from mirl_core.engines.remote.server import ConnectionLost, Server


class RunningCall:
    """A running `generate` or `score` call."""

    def __init__(self) -> None:
        self.aborted = False
        self.running: dict[str, Server] = {}
        """The server of each unanswered request, by request id."""
        self.tasks: list[asyncio.Task[Sample]] = []


def check_not_cut(answer: Any, server: Server, call: RunningCall) -> None:
    """Check that a server has not ended a request that nobody aborted: a cut sample is no answer.

    Raises:
        ConnectionLost: it has, as vLLM does when it shuts down.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    reasons = {choice.get("finish_reason") for choice in choices or () if isinstance(choice, dict)}
    if "abort" in reasons and not call.aborted:
        raise ConnectionLost(f"{server.name} ended a request: it is shutting down", sent=True)


class Requester(Protocol):
    """Sends an engine's requests to the servers of its pool."""

    async def render(self, request: RenderRequest, context: RequestContext) -> tuple[int, Any]:
        """Return a prompt's length in tokens, and the prompt."""
        ...

    async def sample(
        self,
        prompt: Any,
        suffix: Sequence[int],
        index: int,
        sampling: Sampling,
        context: RequestContext,
        call: RunningCall,
    ) -> Sample | None:
        """Return the sample of branch `index`; None if its call was aborted before it began."""
        ...

    async def positions(self, prompt: Any, prompt_tokens: int, context: RequestContext) -> Positions:
        """Return the function that scores suffixes after a prompt."""
        ...

    async def check_structure(self, structure: str) -> None:
        """Have a server parse a structural tag; raise RequestError if it can't hold samples to it."""
        ...

    async def probe(self, server: Server) -> None:
        """Have a server generate a token."""
        ...

    async def abort(self, call: RunningCall) -> None:
        """End a call's requests."""
        ...
