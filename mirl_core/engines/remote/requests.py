"""Requests for tokens: to the server that a prompt lives on, or to another if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from mirl_core.engines.base import RequestContext
from mirl_core.engines.remote.pool import Pool
from mirl_core.engines.remote.prompt import Picture, RemotePrompt, read_rendering
from mirl_core.engines.remote.sampling import weight_versions
from mirl_core.engines.remote.score import parameters
from mirl_core.engines.remote.server import ConnectionLost, Server, to_json
from mirl_core.errors import EngineError, RequestError, ServerError

T = TypeVar("T")

RENDER = "/v1/chat/completions/render"
GENERATE = "/inference/v1/generate"
ABORT = "/inference/v1/abort_requests"
ABORT_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Waits after the requests to abort a call, before its connections are closed."""
NEVER = -1e30
"""Bias of tokens that are never sampled: JSON has no infinity, and this leaves them no probability either."""
CANDIDATES = 8
"""How many tokens are tried as image placeholder."""


class RunningCall:
    """One running `generate` or `score` call."""

    def __init__(self) -> None:
        self.aborted = False
        self.running: dict[str, Server] = {}
        """Where each of its requests is."""
        self.tasks: list[asyncio.Task[None]] = []


class Requests:
    """Sends requests of one engine.

    Args:
        model: as the servers name it.
        banned: tokens that stand for media.
    """

    def __init__(self, pool: Pool, model: str, banned: frozenset[int]) -> None:
        self._pool = pool
        self._model = model
        self._banned = banned
        # Several engines may use one server: their request ids must differ.
        self._name = uuid.uuid4().hex[:12]
        self._placeholder: int | None = None

    async def render(
        self, body: bytes, pictures: tuple[Picture, ...], context: RequestContext
    ) -> RemotePrompt:
        """The rendering by the server whose turn it is."""

        home = await self._pool.next()

        async def ask(server: Server) -> RemotePrompt:
            headers = dict(context.trace_headers)
            answer = await server.ask(RENDER, body, headers=headers, param="messages")
            return read_rendering(answer, pictures, server)

        return await self._somewhere(lambda: home, ask)

    async def run(
        self,
        prompt: RemotePrompt,
        suffix: Sequence[int],
        settings: Mapping[str, Any],
        name: str,
        context: RequestContext,
        call: RunningCall,
        *,
        no_media: bool = False,
    ) -> Any:
        """The answer to one request; None if it was aborted before it began.

        Args:
            no_media: never sample tokens that stand for media.
        """
        request_id = self._id(context, name)

        async def ask(server: Server) -> Any:
            prompt.server = server
            if prompt.pictures:
                await self._introduce(prompt, server, context)
            version = server.version
            call.running[request_id] = server
            try:
                async with server.slots:
                    if call.aborted:
                        return None
                    # Known from here on: what stands for an image may have to be found out first.
                    banned = {**settings, **self._bias()} if no_media else settings
                    answer = await self._ask(server, prompt, suffix, banned, request_id, context)
            finally:
                del call.running[request_id]
            if version is not None and not weight_versions(answer) <= {version, server.version}:
                raise self._pool.restarted(server)
            return answer

        return await self._somewhere(lambda: prompt.server, ask)

    async def abort(self, call: RunningCall) -> None:
        """End a call's requests; returns when they have ended.

        A request may still be on its way to a server, which then knows nothing of it: so it is asked again.
        What a server doesn't end is cut off, and the tokens that it sampled are lost.
        """
        call.aborted = True
        for seconds in ABORT_SECONDS:
            running: dict[Server, list[str]] = {}
            for name, server in call.running.items():
                running.setdefault(server, []).append(name)
            await asyncio.gather(*(_abort(server, names) for server, names in running.items()))
            if not call.tasks or not (await asyncio.wait(call.tasks, timeout=seconds))[1]:
                return
        for task in call.tasks:
            task.cancel()

    async def _ask(
        self,
        server: Server,
        prompt: RemotePrompt,
        suffix: Sequence[int],
        settings: Mapping[str, Any],
        request_id: str,
        context: RequestContext,
    ) -> Any:
        """The answer to one request; images go by name, or along where the server has forgotten them."""
        lora = getattr(context.lora, "lora_name", context.lora)
        body = {
            "request_id": request_id,
            "model": lora or self._model,
            **prompt.fields(suffix, self._placeholder, with_images=False),
            "sampling_params": settings,
            **_sharing(context),
        }
        headers = dict(context.trace_headers)
        try:
            return await server.ask(GENERATE, body, headers=headers)
        except (RequestError, ServerError) as error:
            if not prompt.pictures or (isinstance(error, ServerError) and error.status is None):
                raise
        body |= prompt.fields(suffix, self._placeholder, with_images=True)
        return await server.ask(GENERATE, await asyncio.to_thread(to_json, body), headers=headers)

    async def _introduce(self, prompt: RemotePrompt, server: Server, context: RequestContext) -> None:
        """Have the server see the images, so that further requests only name them.

        It samples a token to no purpose; what it reads of the prompt stays in its cache. Its answer has the
        prompt as the model saw it, which shows whether that is what was rendered.

        Raises:
            EngineError: it is not.
        """
        async with prompt.lock:
            if server in prompt.known:
                return
            refused: RequestError | ServerError | None = None
            for placeholder in self._placeholders(prompt):
                body = {
                    "request_id": self._id(context, "images"),
                    "model": self._model,
                    **prompt.fields((), placeholder, with_images=True),
                    "sampling_params": parameters(),
                    "return_token_ids": True,
                    **_sharing(context),
                }
                try:
                    async with server.slots:
                        answer = await server.ask(GENERATE, await asyncio.to_thread(to_json, body))
                except (RequestError, ServerError) as error:
                    refused = refused or error
                    continue
                if tuple(answer.get("prompt_token_ids") or ()) == prompt.token_ids:
                    self._placeholder = placeholder
                    prompt.known.add(server)
                    return
            raise refused or EngineError(
                "the images of this model's prompts can't be sent over HTTP: none of its tokens is the "
                "placeholder that vLLM expands; run the engine in process"
            )

    def _bias(self) -> dict[str, Any]:
        """That keeps media tokens from being sampled, as a sampling parameter."""
        banned = self._banned if self._placeholder is None else self._banned | {self._placeholder}
        return {"logit_bias": {str(token): NEVER for token in sorted(banned)}} if banned else {}

    def _placeholders(self, prompt: RemotePrompt) -> list[int]:
        """Tokens that may be the one which vLLM expands to an image's, the likeliest first."""
        if self._placeholder is not None:
            return [self._placeholder]
        found = prompt.image_tokens()
        return [*sorted(found & self._banned), *sorted(found - self._banned)][:CANDIDATES]

    async def _somewhere(self, home: Callable[[], Server], ask: Callable[[Server], Awaitable[T]]) -> T:
        """What `ask` gets from the server that is home, or from another one if that can't be reached.

        Home is looked up each time: where one branch of a prompt had to move, the others follow.
        """
        lost = 0
        for _ in range(len(self._pool.servers) + 1):
            server = await self._pool.keep(home())
            try:
                return await ask(server)
            except ConnectionLost as error:
                last = error
                lost += error.sent
                await self._pool.failed(server, error)
                if lost == 2:
                    break
            except EngineError as error:
                # Did the engine die of it? Then nobody is to be sent there any more.
                await self._pool.failed(server, error)
                await self._pool.keep(server)
                raise
        await self._pool.keep(server)
        raise EngineError(str(last)) from last

    def _id(self, context: RequestContext, name: str) -> str:
        return f"mirl-{self._name}-{context.request_id}-{name}"


def _sharing(context: RequestContext) -> dict[str, Any]:
    """What keeps a request apart from others on its server."""
    fields: dict[str, Any] = {}
    if context.cache_salt is not None:
        # vLLM's HTTP salts are short and of few characters.
        fields["cache_salt"] = hashlib.sha256(context.cache_salt.encode()).hexdigest()
    if context.priority:
        fields["priority"] = context.priority
    return fields


async def _abort(server: Server, request_ids: Sequence[str]) -> None:
    """Best effort: what the server doesn't end is cut off."""
    # vLLM's own prefix for requests that came by this route.
    body = {"request_ids": [f"generate-tokens-{name}" for name in request_ids]}
    with contextlib.suppress(ConnectionLost, EngineError, RequestError):
        await server.control("POST", ABORT, body)
