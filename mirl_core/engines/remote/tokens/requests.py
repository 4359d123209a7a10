"""Requests for tokens: to the server that caches a prompt, or to another if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from mirl_core.engines.base import RequestContext, Sample, Sampling
from mirl_core.engines.common.scoring import Positions
from mirl_core.engines.common.structures import structure_refused
from mirl_core.engines.remote.calls import RunningCall, check_not_cut
from mirl_core.engines.remote.checks import generate
from mirl_core.engines.remote.joining import Profile
from mirl_core.engines.remote.pool.pool import Pool
from mirl_core.engines.remote.prompt import RemotePrompt, RenderRequest, read_expansion, read_rendering
from mirl_core.engines.remote.sampling import (
    model_name,
    read_sample,
    sampling_params,
    sharing_fields,
    weight_versions,
)
from mirl_core.engines.remote.sending import send_to
from mirl_core.engines.remote.server import ConnectionLost, Server, to_json
from mirl_core.engines.remote.tokens.score import parameters, position_reader
from mirl_core.errors import EngineError, RequestError, ServerError

logger = logging.getLogger(__name__)

RENDER = "/v1/chat/completions/render"
GENERATE = "/inference/v1/generate"
ABORT = "/inference/v1/abort_requests"
ABORT_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Waits after each request to abort a call, before its connections are closed."""
BAN_BIAS = -1e30
"""Logit bias of tokens that are never sampled: JSON has no infinity, and this also leaves no probability."""
CANDIDATES = 8
"""How many tokens are tried as image placeholder."""


class TokenRequests:
    """Sends the requests of one engine to vLLM's token routes.

    Args:
        pool: the servers.
        profile: what they have in common.
    """

    def __init__(self, pool: Pool, profile: Profile) -> None:
        self._pool = pool
        self._profile = profile
        self._model = profile.model.name
        self._banned = profile.banned
        # Request ids must differ between the engines that use the same server.
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._placeholder: int | None = None
        self._expands = True
        """Whether the servers' answers say where images are in a prompt."""

    async def render(self, request: RenderRequest, context: RequestContext) -> tuple[int, RemotePrompt]:
        """Return a prompt's length in tokens, and the prompt, by the server that `Pool.pick` chooses.

        vLLM's route for renderings preprocesses images and keeps nothing of them, so the first request for
        tokens preprocesses them again. A rendering with tensors would spare that, but is not exact (see
        `prompt`). So once the placeholder is known, small stand-ins are rendered in place of the images. The
        first request for tokens sends the true images; the server puts them in the stand-ins' places, and its
        answer has the prompt as the model sees it. Images are then preprocessed once.

        The true images are rendered in three cases: for the first prompt with images, on servers whose answer
        lacks the images' places, and for a prompt that a server refuses, so that the refusal is about the
        conversation itself.
        """
        home = await self._pool.pick(request.key)

        async def ask(server: Server) -> RemotePrompt:
            if request.pictures and self._placeholder is not None and self._expands:
                prompt = await self._expanded(self._placeholder, server, request, context)
                if prompt is not None:
                    return prompt
            body = await asyncio.to_thread(lambda: to_json(request.with_images()))
            return read_rendering(await self._render(server, body, context), request, server)

        prompt = await send_to(self._pool, lambda: home, ask, request.key, proves=False)
        return len(prompt.token_ids), prompt

    async def sample(
        self,
        prompt: RemotePrompt,
        suffix: Sequence[int],
        index: int,
        sampling: Sampling,
        context: RequestContext,
        call: RunningCall,
    ) -> Sample | None:
        """Return the sample of branch `index`; None if its call was aborted before it began."""
        text = self._profile.text
        settings = sampling_params(sampling, index, text.encode)
        answer = await self.run(prompt, suffix, settings, str(index), context, call, no_media=True)
        return None if answer is None else read_sample(index, answer, sampling, text.decode)

    async def positions(self, prompt: RemotePrompt, prompt_tokens: int, context: RequestContext) -> Positions:
        """Return the function that scores suffixes after a prompt; see `position_reader`."""
        call = RunningCall()
        return await position_reader(
            lambda suffix, settings, name: self.run(prompt, suffix, settings, name, context, call),
            prompt_tokens,
            counts_cached=prompt.server.counts_cached,
        )

    async def check_structure(self, structure: str) -> None:
        """Have a server parse a structural tag.

        Raises:
            RequestError: it can't hold samples to it.
        """
        settings = parameters(structured_outputs={"structural_tag": structure})
        body = {
            "request_id": f"mirl-{self._name}-structure-{next(self._numbers)}",
            "model": self._model,
            "token_ids": list(self._profile.text.encode("Hello")) or [0],
            "sampling_params": {**settings, "detokenize": True},
        }
        home = await self._pool.pick()
        try:
            await send_to(self._pool, lambda: home, lambda server: server.ask(GENERATE, body))
        except RequestError as error:
            raise structure_refused(error.message) from error

    async def probe(self, server: Server) -> None:
        """Have a server generate a token."""
        ids = self._profile.text.encode("Hello") or (0,)
        await generate(server, self._profile.model, ids, parameters(), seconds=600.0)

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
            version = server.weights_version
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
            check_not_cut(answer, server, call)
            if version is not None and not weight_versions(answer) <= {version, server.weights_version}:
                raise self._pool.restarted(server)
            return answer

        return await send_to(self._pool, lambda: prompt.server, ask, prompt.key)

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

    async def _render(self, server: Server, body: Mapping[str, Any] | bytes, context: RequestContext) -> Any:
        return await server.ask(RENDER, body, headers=dict(context.trace_headers), param="messages")

    async def _expanded(
        self, placeholder: int, server: Server, request: RenderRequest, context: RequestContext
    ) -> RemotePrompt | None:
        """Render with stand-ins and send the images; return the prompt, None if this way doesn't work."""
        try:
            short = read_rendering(await self._render(server, request.body, context), request, server)
            answer = await self._sent_images(short, placeholder, server, context)
        except RequestError:
            return None
        prompt = read_expansion(answer, short)
        if prompt is None:
            self._expands = False
            logger.info("%s renders images twice: it doesn't say where they are in a prompt", server.name)
            return None
        prompt.servers_with_images.add(server)
        return prompt

    async def _sent_images(
        self, prompt: RemotePrompt, placeholder: int, server: Server, context: RequestContext
    ) -> Any:
        """Send a prompt's images to a server, and return its answer, with the prompt as the model saw it.

        The request samples a token that is discarded; the prompt stays in the server's prefix cache.
        """
        body = {
            "request_id": self._id(context, f"images-{next(self._numbers)}"),
            "model": self._model,
            **prompt.fields((), placeholder, with_images=True),
            "sampling_params": parameters(),
            "return_token_ids": True,
            **sharing_fields(context),
        }
        async with server.slots:
            return await server.ask(GENERATE, await asyncio.to_thread(to_json, body), param="messages")

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
        body = {
            "request_id": request_id,
            "model": model_name(context, self._model),
            **prompt.fields(suffix, self._placeholder, with_images=False),
            "sampling_params": settings,
            **sharing_fields(context),
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

        The prompt's tokens in the answer must equal the rendering's.

        Raises:
            EngineError: they differ.
            RequestError: the server refuses the images.
        """
        async with prompt.lock:
            if server in prompt.servers_with_images:
                return
            first_error: RequestError | ServerError | None = None
            for placeholder in self._placeholders(prompt):
                try:
                    answer = await self._sent_images(prompt, placeholder, server, context)
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

    def _id(self, context: RequestContext, name: str) -> str:
        return f"mirl-{self._name}-{context.request_id}-{name}"


async def _abort(server: Server, request_ids: Sequence[str]) -> None:
    """Ask the server to end requests; errors are ignored, since `abort` closes the connections at last."""
    # vLLM's prefix for requests on this route.
    body = {"request_ids": [f"generate-tokens-{name}" for name in request_ids]}
    with contextlib.suppress(ConnectionLost, EngineError, RequestError):
        await server.control("POST", ABORT, body)
