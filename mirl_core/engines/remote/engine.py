"""The engine over HTTP: one or more vLLM servers of one model, for training beside a fleet of samplers and
for processes without a GPU. Needs neither vLLM nor torch.

Servers run vLLM 0.32 or newer with `--enable-scale-out`: `mirl-serve MODEL --enable-scale-out`.

- The tokenizer is loaded in this process (transformers, no torch), because encoding and decoding are
  synchronous in the protocol and `/detokenize` keeps special tokens. Every server must have the same
  tokenizer; a check compares them.
- A conversation stays on the server that rendered it, where its prefix is cached; new conversations go round
  robin. A server that fails is left out, and its conversations move. A request whose connection breaks is
  sent only once more: a request that kills engines must not go from server to server.
- Each branch is a separate request for tokens: it has a seed and an end that no other branch shares. A
  cancelled or aborted branch ends on the server too.
- A server that samples with other weights than were pushed to it (after a restart) is left out.

Differences from the engine in process:
- An image is preprocessed twice on its server (vLLM separates rendering from sampling), never more often.
- `Sampling.ranked` must be below the server's `--max-logprobs` (20): vLLM returns as many values as the
  request asks for, the sampled token's among them. `score_likeliest` takes all 20.
- Long prompts are scored through the prefix cache only with `--enable-prompt-tokens-details`; the values are
  the same without.
- A model is refused at its first image if none of the tokens in the image's range is the placeholder.
- The operator of a CPU server ensures that seeds are safe; `mirl-serve` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from mirl_core.engines.base import (
    Rendered,
    RequestContext,
    Sample,
    Sampling,
    checked_rendering,
    too_long_to_score,
)
from mirl_core.engines.common.branches import Branches, empty_sample, registered
from mirl_core.engines.common.scoring import (
    Positions,
    distinct_suffixes,
    score_suffixes,
    scores_in_order,
)
from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.remote.checks import ServedModel, check, find_model, load_tokenizer
from mirl_core.engines.remote.pool import Pool
from mirl_core.engines.remote.prompt import RemotePrompt, render_request
from mirl_core.engines.remote.requests import Requests, RunningCall
from mirl_core.engines.remote.sampling import read_sample, sampling_params
from mirl_core.engines.remote.score import position_reader
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, RequestError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    import httpx


class RemoteEngine:
    """Runs one model on vLLM servers. `start` connects to them and returns an engine.

    Args:
        servers: at least one.
        model: the model, as the servers list it.
        tokenizer: transformers' tokenizer of the model.
        banned: tokens that are never sampled: media placeholders.
        score_batch_tokens: most prompt-plus-suffix tokens that one `score` call has in flight.
        keep_special: special tokens that stay in text: for tokenizers whose tags are special tokens.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        model: ServedModel,
        tokenizer: Any,
        banned: frozenset[int] = frozenset(),
        *,
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
    ) -> None:
        self._pool = Pool(servers, self._admit)
        self._model = model
        self._score_batch_tokens = score_batch_tokens
        self._text = TextCodec(tokenizer, keep_special)
        self._requests = Requests(self._pool, model.name, banned)
        self._calls: dict[str, RunningCall] = {}

    @classmethod
    async def start(
        cls,
        urls: Sequence[str],
        *,
        model: str | None = None,
        tokenizer: str | None = None,
        api_key: str | None = None,
        connections: int = 512,
        timeout: float = 600.0,  # noqa: ASYNC109 - limits each answer, not this call
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> RemoteEngine:
        """Connect to servers and check them.

        Args:
            urls: base URLs, with or without `/v1`.
            model: the servers' name of it; None: the first model in their lists.
            tokenizer: folder or hub name of the model, for its tokenizer and config; None: the name under
                which the servers loaded it, which must then be valid here too.
            api_key: sent as bearer token.
            connections: most requests in flight to one server; further requests wait.
            timeout: longest wait for one answer; seconds.
            score_batch_tokens: see the class.
            keep_special: see the class.
            transport: replaces httpx's transport in tests.

        Raises:
            ConfigError: a URL, the model, the tokenizer or a server's flags are wrong.
            EngineDeadError: no server answers.
        """
        if not urls:
            raise ConfigError("no server is named")
        servers = [
            Server(url, api_key=api_key, connections=connections, timeout=timeout, transport=transport)
            for url in dict.fromkeys(urls)
        ]
        try:
            answers = await asyncio.gather(*(_served_model(server, model) for server in servers))
            served_model = next((answer for answer in answers if answer is not None), None)
            if served_model is None:
                reasons = "; ".join(server.reason for server in servers)
                raise EngineDeadError(f"no server answers: {reasons}")
            loaded, banned = await asyncio.to_thread(load_tokenizer, tokenizer or served_model.root)
            engine = cls(
                servers,
                served_model,
                loaded,
                banned,
                score_batch_tokens=score_batch_tokens,
                keep_special=keep_special,
            )
            await engine._pool.start()
        except BaseException:
            # On cancellation too: otherwise the connections would stay open without an owner.
            await asyncio.gather(*(server.close() for server in servers))
            raise
        return engine

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        body, pictures = await asyncio.to_thread(render_request, conversation, self._model.name)
        prompt = await self._requests.render(body, pictures, context)
        return checked_rendering(len(prompt.token_ids), prompt, self.max_model_len)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._text.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._text.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        return self._text.token(token_id)

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        if rendered.prompt_tokens + len(suffix_ids) >= self.max_model_len:
            for index in range(n):
                yield empty_sample(index, "length")
            return
        prompt: RemotePrompt = rendered.inputs
        with registered(self._calls, context.request_id, RunningCall()) as call:

            async def sample(index: int) -> Sample:
                settings = sampling_params(sampling, index, self.encode)
                branch_context = context.of_branch(index)
                try:
                    answer = await self._requests.run(
                        prompt, suffix_ids, settings, str(index), branch_context, call, no_media=True
                    )
                except asyncio.CancelledError:
                    # `abort` cancels the branches that their server doesn't end.
                    if not call.aborted:
                        raise
                    answer = None
                if answer is None:
                    return empty_sample(index, "abort")
                return read_sample(index, answer, sampling, self.decode)

            # A cancelled branch closes its connection, whereupon vLLM ends its request.
            async with Branches(sample, n) as branches:
                call.tasks = branches.tasks
                for _ in range(n):
                    yield await branches.next_sample()

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        """See `Engine.score`; identical suffixes are scored once."""
        distinct = distinct_suffixes(suffixes)
        positions = await self._positions(rendered, max(map(len, distinct), default=0), context)
        scores = await score_suffixes(positions, rendered.prompt_tokens, distinct, self._score_batch_tokens)
        return scores_in_order(suffixes, scores)

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        positions = await self._positions(rendered, len(suffix_ids), context)
        if start >= len(suffix_ids):
            return []
        return await positions(tuple(suffix_ids), "0", start, top)

    async def check_structure(self, structure: str) -> None:
        raise RequestError("answers can't be constrained over HTTP; run vLLM in process")

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`; returns when all branches of the call have ended."""
        call = self._calls.get(request_id)
        if call is not None:
            await self._requests.abort(call)

    async def health(self) -> None:
        """See `Engine.health`; returns while at least one server can serve."""
        await self._pool.health()

    async def close(self) -> None:
        await self._pool.close()

    @property
    def max_model_len(self) -> int:
        return self._model.max_model_len

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers, including those that are left out."""
        return self._pool.servers

    async def update(self, update: Callable[[Server], Awaitable[None]], version: str) -> None:
        """Change the weights of all servers; a server on which it fails is left out until the next update.

        Args:
            update: changes the weights of one server and sets its weight version.
            version: the version that servers must report from then on.

        Raises:
            EngineError: the update failed on every server.
        """
        await self._pool.update(update, version)

    def expect(self, version: str) -> None:
        """Set the version of the servers' weights after another process has changed them."""
        self._pool.expect(version)

    async def _positions(self, rendered: Rendered, longest: int, context: RequestContext) -> Positions:
        """Return the function that scores the suffixes of a call, of at most `longest` tokens.

        Raises:
            ContextLengthError: they don't fit the model's context.
        """
        if rendered.prompt_tokens + longest >= self.max_model_len:
            raise too_long_to_score(self.max_model_len)
        prompt: RemotePrompt = rendered.inputs
        call = RunningCall()
        return await position_reader(
            lambda suffix, settings, name: self._requests.run(prompt, suffix, settings, name, context, call),
            rendered.prompt_tokens,
            counts_cached=rendered.inputs.server.counts_cached,
        )

    async def _admit(self, server: Server) -> None:
        """Check a server before it is used.

        Raises:
            ConnectionLost: it doesn't answer.
            MIRLError: it serves another model, other weights, or not as MIRL needs.
        """
        await server.control("GET", "/health", timeout=5.0)
        model = await find_model(server, self._model.name)
        if model.max_model_len < self.max_model_len:
            raise ConfigError(
                f"{server.url} takes {model.max_model_len} tokens, other servers {self.max_model_len}"
            )
        if self._pool.version is not None:
            info = await server.control("GET", "/weight_info")
            if info["weight_version"] != self._pool.version:
                raise EngineError(f"{server.url} has other weights")
            server.version = self._pool.version
        await check(server, model, self.encode)


async def _served_model(server: Server, model: str | None) -> ServedModel | None:
    """Return the server's model; None, with the reason on the server, if it doesn't answer."""
    try:
        return await find_model(server, model)
    except (ConnectionLost, EngineError) as error:
        server.reason = str(error)
        return None
