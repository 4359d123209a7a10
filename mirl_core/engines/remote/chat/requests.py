"""The requests of an engine in chat mode: chat completions that go on with the assistant's last message.

A suffix travels as text, so the server may read it as other tokens than those that were sampled: what it
then samples and scores is of nearly the same prompt, not of the same. `Deviation` counts how often that was
so. Besides:

- Every request has the whole conversation; images go by name once a server has them.
- A prompt's length comes with the answer to a request for one token.
- An aborted request loses the tokens that it had sampled.
- The template must leave the last message as it is: one that trims or rewrites it changes the suffix.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mirl_core.engines.base import RequestContext, Sample, Sampling
from mirl_core.engines.common.scoring import Positions, Suffix
from mirl_core.engines.common.structures import structure_refused
from mirl_core.engines.remote.calls import RunningCall, check_not_cut
from mirl_core.engines.remote.chat.answers import read_sample, read_suffix
from mirl_core.engines.remote.chat.checks import CONTINUED
from mirl_core.engines.remote.joining import Profile
from mirl_core.engines.remote.pool.pool import Pool
from mirl_core.engines.remote.prompt import RenderRequest
from mirl_core.engines.remote.sampling import model_name, sampling_params, sharing_fields
from mirl_core.engines.remote.sending import send_to
from mirl_core.engines.remote.server import Server, to_json
from mirl_core.errors import EngineError, RequestError

CHAT = "/v1/chat/completions"
MOST_LIKELIEST = 20
"""Most likeliest tokens that a chat completion returns, the sampled one's place included."""
BAN_BIAS = -100.0
"""The lowest logit bias that the API takes."""
PROBE_MESSAGES = [{"role": "user", "content": "Hello"}]
NO_PROMPT_LOGPROBS = (
    "these servers return no log-probabilities of prompts, which mutual information needs: choose mi_weight "
    "0 and a preset without steering, or serve the model with vLLM"
)


@dataclass(slots=True)
class Deviation:
    """How far chat completions were from the sampled tokens."""

    suffixes: int = 0
    """Suffixes that were scored."""
    exact: int = 0
    """Those that the server read as the same tokens."""


@dataclass(eq=False, slots=True)
class ChatPrompt:
    """A conversation that chat completions go on from, and the server that caches it."""

    request: RenderRequest
    token_ids: tuple[int, ...]
    """The prompt as the model sees it; empty where servers don't return it."""
    tokens: int
    server: Server
    key: str | None
    servers_with_images: set[Server] = field(default_factory=set)

    def body(self, text: str, *, with_images: bool) -> dict[str, Any]:
        """Return a request's fields for the conversation, with `text` as beginning of the next message.

        Args:
            with_images: whether to carry the images or to refer to them by name.
        """
        body = self.request.with_images(by_name=not with_images)
        for name in ("mm_payload", "max_tokens"):
            body.pop(name, None)
        if not text:
            return body
        messages = body["messages"]
        last = messages[-1]
        if body.get("continue_final_message") and isinstance(last.get("content"), str):
            messages = [*messages[:-1], {**last, "content": last["content"] + text}]
        else:
            messages = [*messages, {"role": "assistant", "content": text}]
        return {**body, "messages": messages, **CONTINUED}


class ChatRequests:
    """Sends the requests of one engine in chat mode.

    Args:
        pool: the servers.
        profile: what they have in common.
    """

    def __init__(self, pool: Pool, profile: Profile) -> None:
        self._pool = pool
        self._profile = profile
        self._abilities = profile.abilities
        self.deviation = Deviation()

    async def render(self, request: RenderRequest, context: RequestContext) -> tuple[int, ChatPrompt]:
        """Return a prompt's length in tokens, and the prompt."""
        home = await self._pool.pick(request.key)

        async def ask(server: Server) -> tuple[int, ChatPrompt]:
            prompt = ChatPrompt(request, (), 0, server, request.key)
            answer = await self._ask(prompt, server, "", {"max_tokens": 1, "temperature": 0.0}, context)
            try:
                prompt.token_ids = tuple(int(token) for token in answer.get("prompt_token_ids") or ())
                prompt.tokens = len(prompt.token_ids) or int(answer["usage"]["prompt_tokens"])
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise EngineError(f"{server.name} doesn't say how long a prompt is") from error
            return prompt.tokens, prompt

        return await send_to(self._pool, lambda: home, ask, request.key)

    async def sample(
        self,
        prompt: ChatPrompt,
        suffix: Sequence[int],
        index: int,
        sampling: Sampling,
        context: RequestContext,
        call: RunningCall,
    ) -> Sample | None:
        """Return the sample of branch `index`; None if its call was aborted before it began."""
        if call.aborted:
            return None
        settings = self._settings(sampling, index)
        answer = await self._run(prompt, suffix, settings, context, call)
        return read_sample(index, answer, sampling, self._profile.text)

    async def positions(self, prompt: ChatPrompt, prompt_tokens: int, context: RequestContext) -> Positions:
        """Return the function that scores suffixes after a prompt.

        Raises:
            RequestError: these servers return no log-probabilities of prompts.
        """
        del prompt_tokens
        if not self._abilities.prompt_logprobs:
            raise RequestError(NO_PROMPT_LOGPROBS, param="mirl.mi_weight")

        async def positions(suffix: Suffix, name: str, start: int, top: int) -> list[dict[int, float]]:
            del name
            settings = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": top}
            answer = await self._run(prompt, suffix, settings, context, RunningCall())
            scored = read_suffix(answer, prompt.token_ids, suffix, self._profile.text)
            self.deviation.suffixes += 1
            self.deviation.exact += scored.exact
            return scored.positions[start:]

        return positions

    async def check_structure(self, structure: str) -> None:
        """Have a server parse a structural tag.

        Raises:
            RequestError: it can't hold samples to it.
        """
        if not self._abilities.token_ids:
            raise RequestError(
                "these servers can't hold a part of an answer to a form; serve the model with vLLM",
                param="response_format",
            )
        body = {
            "model": self._profile.model.chat_name,
            "messages": PROBE_MESSAGES,
            "max_tokens": 1,
            "structured_outputs": {"structural_tag": structure},
        }
        home = await self._pool.pick()
        try:
            await send_to(self._pool, lambda: home, lambda server: server.ask(CHAT, body))
        except RequestError as error:
            raise structure_refused(error.message) from error

    async def probe(self, server: Server) -> None:
        """Have a server generate a token."""
        body = {"model": self._profile.model.chat_name, "messages": PROBE_MESSAGES, "max_tokens": 1}
        await server.control("POST", CHAT, body, timeout=600.0)

    async def abort(self, call: RunningCall) -> None:
        """End a call's requests by closing their connections; their tokens are lost."""
        call.aborted = True
        for task in call.tasks:
            task.cancel()

    async def _run(
        self,
        prompt: ChatPrompt,
        suffix: Sequence[int],
        settings: Mapping[str, Any],
        context: RequestContext,
        call: RunningCall,
    ) -> Any:
        text = self._profile.text.verbatim(suffix) if suffix else ""

        async def ask(server: Server) -> Any:
            prompt.server = server
            async with server.slots:
                answer = await self._ask(prompt, server, text, settings, context)
            check_not_cut(answer, server, call)
            return answer

        return await send_to(self._pool, lambda: prompt.server, ask, prompt.key)

    async def _ask(
        self,
        prompt: ChatPrompt,
        server: Server,
        text: str,
        settings: Mapping[str, Any],
        context: RequestContext,
    ) -> Any:
        headers = dict(context.trace_headers)
        by_name = server in prompt.servers_with_images
        body = self._body(prompt, text, settings, context, with_images=not by_name)
        content = await asyncio.to_thread(to_json, body)
        try:
            answer = await server.ask(CHAT, content, headers=headers, param="messages")
        except RequestError:
            if not by_name:
                raise
            # The server may have dropped the images.
            body = self._body(prompt, text, settings, context, with_images=True)
            content = await asyncio.to_thread(to_json, body)
            answer = await server.ask(CHAT, content, headers=headers, param="messages")
        if self._abilities.token_ids and prompt.request.pictures:
            prompt.servers_with_images.add(server)
        return answer

    def _body(
        self,
        prompt: ChatPrompt,
        text: str,
        settings: Mapping[str, Any],
        context: RequestContext,
        *,
        with_images: bool,
    ) -> dict[str, Any]:
        body = {
            **prompt.body(text, with_images=with_images),
            "model": model_name(context, self._profile.model.chat_name),
            **settings,
        }
        if self._abilities.token_ids:
            body |= {"return_token_ids": True, "return_tokens_as_token_ids": True, **sharing_fields(context)}
        return body

    def _settings(self, sampling: Sampling, index: int) -> dict[str, Any]:
        """Return a chat completion's sampling fields for branch `index`."""
        text, vllm = self._profile.text, self._abilities.token_ids
        settings = sampling_params(sampling, index, text.encode)
        ranked = int(settings.pop("logprobs"))
        if ranked > MOST_LIKELIEST:
            raise RequestError(f"chat completions return at most {MOST_LIKELIEST - 1} likeliest tokens")
        settings.pop("detokenize")
        settings |= {"logprobs": True, "top_logprobs": ranked}
        if self._profile.banned:
            settings["logit_bias"] = {str(token): BAN_BIAS for token in sorted(self._profile.banned)}
        if not vllm:
            # A stop string would be missing in the text, as if the model had ended there: it is cut here.
            for name, default in (
                ("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0), ("stop", None),
                ("include_stop_str_in_output", None), ("stop_token_ids", None), ("logit_bias", None),
            ):  # fmt: skip
                if default is None or settings.get(name) == default:
                    settings.pop(name, None)
        return settings
