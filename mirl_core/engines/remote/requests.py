"""Requests for tokens: to the server that caches a prompt, or to another if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from mirl_core.engines.base import RequestContext, Sample
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
"""Waits after each request to abort a call, before its connections are closed."""
BAN_BIAS = -1e30
"""Logit bias of tokens that are never sampled: JSON has no infinity, and this also leaves no probability."""
CANDIDATES = 8
"""How many tokens are tried as image placeholder."""


class RunningCall:
    """A running `generate` or `score` call."""

    def __init__(self) -> None:
        self.aborted = False
        self.running: dict[str, Server] = {}
        """The server of each unanswered request, by request id."""
        self.tasks: list[asyncio.Task[Sample]] = []


class Requests:
    """Sends the requests of one engine.

    Args:
        pool: the servers.
        model: the servers' name of the model.
        banned: tokens that stand for media.
    """

    def __init__(self, pool: Pool, model: str, banned: frozenset[int]) -> None:
        self._pool = pool
        self._model = model
        self._banned = banned
        # Request ids must differ between the engines that use the same server.
        self._name = uuid.uuid4().hex[:12]
        self._placeholder: int | None = None

    async def render(
        self, body: bytes, pictures: tuple[Picture, ...], context: RequestContext
    ) -> RemotePrompt:
        """Return the rendering by the server whose turn it is."""
        home = await self._pool.next()

        async def ask(server: Server) -> RemotePrompt:
            headers = dict(context.trace_headers)
            answer = await server.ask(RENDER, body, headers=headers, param="messages")
            return read_rendering(answer, pictures, server)

        return await self._with_failover(lambda: home, ask)

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
        """Send one request and return its answer; None if its call was aborted before the request began.

        Args:
            prompt: moves to another server if its own fails.
            suffix: token ids after the prompt.
            settings: vLLM's sampling parameters.
            name: tells the call's requests apart.
            context: the request's context.
            call: the call that the request belongs to.
            no_media: whether tokens that stand for media are never sampled.
        """
        request_id = self._id(context, name)

        async def ask(server: Server) -> Any:
            prompt.server = server
            if prompt.pictures:
                await self._send_images(prompt, server, context)
            version = server.version
            call.running[request_id] = server
            try:
                async with server.slots:
                    if call.aborted:
                        return None
                    # Computed only now, because `_send_images` may have found the placeholder to ban.
                    params = {**settings, **self._bias()} if no_media else settings
                    answer = await self._ask(server, prompt, suffix, params, request_id, context)
            finally:
                del call.running[request_id]
            if version is not None and not weight_versions(answer) <= {version, server.version}:
                raise self._pool.restarted(server)
            return answer

        return await self._with_failover(lambda: prompt.server, ask)

    async def abort(self, call: RunningCall) -> None:
        """End a call's requests and return when they have ended.

        The abort is repeated, because a server ignores it for requests that have not arrived yet. If a server
        doesn't end a request in time, the connection is closed and the sampled tokens are lost.
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
        """Return the answer to one request; images go by name, or in full if the server has lost them."""
        lora = getattr(context.lora, "lora_name", context.lora)
        body = {
            "request_id": request_id,
            "model": lora or self._model,
            **prompt.fields(suffix, self._placeholder, with_images=False),
            "sampling_params": settings,
            **_sharing_fields(context),
        }
        headers = dict(context.trace_headers)
        try:
            return await server.ask(GENERATE, body, headers=headers)
        except (RequestError, ServerError) as error:
            if not prompt.pictures or (isinstance(error, ServerError) and error.status is None):
                raise
        body |= prompt.fields(suffix, self._placeholder, with_images=True)
        return await server.ask(GENERATE, await asyncio.to_thread(to_json, body), headers=headers)

    async def _send_images(self, prompt: RemotePrompt, server: Server, context: RequestContext) -> None:
        """Send the images to the server, so that further requests only name them.

        The request samples a token that is discarded; the prompt stays in the server's prefix cache. The
        answer has the prompt's tokens as the model saw them, which must equal the rendering's.

        Raises:
            EngineError: they differ.
            RequestError: the server refuses the images.
        """
        async with prompt.lock:
            if server in prompt.servers_with_images:
                return
            first_error: RequestError | ServerError | None = None
            for placeholder in self._placeholders(prompt):
                body = {
                    "request_id": self._id(context, "images"),
                    "model": self._model,
                    **prompt.fields((), placeholder, with_images=True),
                    "sampling_params": parameters(),
                    "return_token_ids": True,
                    **_sharing_fields(context),
                }
                try:
                    async with server.slots:
                        answer = await server.ask(GENERATE, await asyncio.to_thread(to_json, body))
                except (RequestError, ServerError) as error:
                    first_error = first_error or error
                    continue
                if tuple(answer.get("prompt_token_ids") or ()) == prompt.token_ids:
                    self._placeholder = placeholder
                    prompt.servers_with_images.add(server)
                    return
            raise first_error or EngineError(
                "the images of this model's prompts can't be sent over HTTP: none of its tokens is the "
                "placeholder that vLLM expands; run the engine in process"
            )

    def _bias(self) -> dict[str, Any]:
        """Return the sampling parameter that keeps media tokens from being sampled."""
        banned = self._banned if self._placeholder is None else self._banned | {self._placeholder}
        return {"logit_bias": {str(token): BAN_BIAS for token in sorted(banned)}} if banned else {}

    def _placeholders(self, prompt: RemotePrompt) -> list[int]:
        """Return candidates for the token that vLLM expands to an image's tokens, the likeliest first."""
        if self._placeholder is not None:
            return [self._placeholder]
        tokens = prompt.image_tokens()
        return [*sorted(tokens & self._banned), *sorted(tokens - self._banned)][:CANDIDATES]

    async def _with_failover(self, home: Callable[[], Server], ask: Callable[[Server], Awaitable[T]]) -> T:
        """Return the result of `ask` for the home server, or for another if that can't be reached.

        `home` is called before each try: where one branch of a prompt has moved, the others follow.
        """
        sent = 0
        for _ in range(len(self._pool.servers) + 1):
            server = await self._pool.keep(home())
            try:
                return await ask(server)
            except ConnectionLost as error:
                last = error
                sent += error.sent
                await self._pool.failed(server, error)
                if sent == 2:
                    break
            except EngineError as error:
                # If the engine died, leave its server out; if no server is left, raise EngineDeadError.
                await self._pool.failed(server, error)
                await self._pool.keep(server)
                raise
        await self._pool.keep(server)
        raise EngineError(str(last)) from last

    def _id(self, context: RequestContext, name: str) -> str:
        return f"mirl-{self._name}-{context.request_id}-{name}"


def _sharing_fields(context: RequestContext) -> dict[str, Any]:
    """Return the request's fields for the prefix cache's salt and the priority."""
    fields: dict[str, Any] = {}
    if context.cache_salt is not None:
        # vLLM's HTTP API limits a salt's length and characters.
        fields["cache_salt"] = hashlib.sha256(context.cache_salt.encode()).hexdigest()
    if context.priority:
        fields["priority"] = context.priority
    return fields


async def _abort(server: Server, request_ids: Sequence[str]) -> None:
    """Ask the server to end requests; errors are ignored, since `abort` closes the connections at last."""
    # vLLM's prefix for requests on this route.
    body = {"request_ids": [f"generate-tokens-{name}" for name in request_ids]}
    with contextlib.suppress(ConnectionLost, EngineError, RequestError):
        await server.control("POST", ABORT, body)
