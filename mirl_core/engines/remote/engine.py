"""The engine over HTTP: one or several vLLM servers of one model, for training beside a fleet of samplers and
for a gateway without a GPU. Needs neither vLLM nor torch.

Servers run vLLM 0.32 or newer with `--enable-scale-out`: `mirl-serve MODEL --enable-scale-out`.

- The tokenizer is loaded here (transformers, no torch), because encoding and decoding are synchronous in the
  protocol and `/detokenize` doesn't leave special tokens out; every server is checked to have the same one.
- A conversation stays on the server that rendered it, where its prefix is cached; new ones go round. A server
  that fails is left out, its conversations move. A request whose connection breaks is sent once more, not
  more often: one that kills engines must not go from server to server.
- Each branch is one request for tokens, so that it has its own seed and ends by itself. Cancelled or aborted,
  it ends on the server too.
- A server that samples with other weights than were pushed to it (it was restarted) is left out.

Where it differs from the engine in process:
- An image is preprocessed twice on its server (vLLM keeps rendering and sampling apart), never more.
- `Sampling.ranked` must be below the server's `--max-logprobs` (20): vLLM answers as many values as
  were asked for, the sampled token's among them.
- Long prompts are scored through the prefix cache only with `--enable-prompt-tokens-details`; the values are
  the same without.
- A model whose image placeholder can't be told from its prompt is refused at its first image.
- Whether seeds are safe on a CPU server is its operator's business; `mirl-serve` sees to it.
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
from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.remote.checks import ServedModel, check, identify, load_tokenizer
from mirl_core.engines.remote.pool import Pool
from mirl_core.engines.remote.prompt import RemotePrompt, render_request
from mirl_core.engines.remote.requests import Requests, RunningCall
from mirl_core.engines.remote.sampling import read_sample, sampling_params
from mirl_core.engines.remote.score import score_suffixes
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, RequestError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    import httpx


class RemoteEngine:
    """Runs one model on vLLM servers. `start` makes one.

    Args:
        servers: at least one.
        card: the model.
        tokenizer: transformers' tokenizer of the model.
        banned: tokens that are never sampled: media placeholders.
        score_batch_tokens: most prompt-plus-suffix tokens that one `score` call has in flight.
        keep_special: special tokens that stay in text: for tokenizers whose tags are special tokens.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        card: ServedModel,
        tokenizer: Any,
        banned: frozenset[int] = frozenset(),
        *,
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
    ) -> None:
        self._pool = Pool(servers, self._admit)
        self._card = card
        self._score_batch_tokens = score_batch_tokens
        self._text = TextCodec(tokenizer, keep_special)
        self._requests = Requests(self._pool, card.name, banned)
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
        timeout: float = 600.0,  # noqa: ASYNC109 - of every answer, not of this call
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> RemoteEngine:
        """Connect to servers and check them.

        Args:
            urls: base URLs, with or without `/v1`.
            model: as the servers name it; None: the first that they list.
            tokenizer: folder or hub name of the model, for its tokenizer and config; None: the name under
                which the servers loaded it, which must then mean the same here.
            api_key: sent as bearer token.
            connections: most requests in flight to one server; more wait.
            timeout: longest wait for one answer; seconds.
            transport: in place of httpx's own, for tests.

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
            cards = await asyncio.gather(*(_card(server, model) for server in servers))
            card = next((card for card in cards if card is not None), None)
            if card is None:
                raise EngineDeadError(f"no server answers: {'; '.join(one.reason for one in servers)}")
            loaded, banned = await asyncio.to_thread(load_tokenizer, tokenizer or card.root)
            engine = cls(
                servers,
                card,
                loaded,
                banned,
                score_batch_tokens=score_batch_tokens,
                keep_special=keep_special,
            )
            await engine._pool.start()
        except BaseException:
            # Cancelled too: connections that nobody holds any more would stay open.
            await asyncio.gather(*(server.close() for server in servers))
            raise
        return engine

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        body, pictures = await asyncio.to_thread(render_request, conversation, self._card.name)

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
                yield Sample(index, (), (), "", "length")
            return
        if context.request_id in self._calls:
            raise EngineError(f"request id {context.request_id!r} is running already")
        prompt: RemotePrompt = rendered.inputs
        call = self._calls[context.request_id] = RunningCall()
        done: asyncio.Queue[Sample | BaseException] = asyncio.Queue()

        async def branch(index: int) -> None:
            try:
                settings = sampling_params(sampling, index, self.encode)
                answer = await self._requests.run(
                    prompt, suffix_ids, settings, str(index), context.of_branch(index), call, no_media=True
                )
                done.put_nowait(
                    Sample(index, (), (), "", "abort")
                    if answer is None
                    else read_sample(index, answer, sampling, self.decode)
                )
            except asyncio.CancelledError:
                if not call.aborted:
                    raise
                done.put_nowait(Sample(index, (), (), "", "abort"))
            except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
                done.put_nowait(error)

        call.tasks = [asyncio.create_task(branch(index)) for index in range(n)]
        try:
            for _ in range(n):
                item = await done.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            # A cancelled branch closes its connection, at which vLLM ends its request.
            for task in call.tasks:
                task.cancel()
            await asyncio.gather(*call.tasks, return_exceptions=True)
            del self._calls[context.request_id]

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        """As in the protocol; identical suffixes are scored once."""
        unique = list(dict.fromkeys(tuple(suffix) for suffix in suffixes if suffix))
        if rendered.prompt_tokens + max(map(len, unique), default=0) >= self.max_model_len:
            raise too_long_to_score(self.max_model_len)
        prompt: RemotePrompt = rendered.inputs
        call = RunningCall()
        scores = await score_suffixes(
            lambda suffix, settings, name: self._requests.run(prompt, suffix, settings, name, context, call),
            rendered.prompt_tokens,
            unique,
            self._score_batch_tokens,
            counts_cached=prompt.server.counts_cached,
        )
        return [scores[tuple(suffix)] if suffix else () for suffix in suffixes]

    async def check_structure(self, structure: str) -> None:
        raise RequestError("answers can't be constrained over HTTP; run vLLM in process")

    async def abort(self, request_id: str) -> None:
        """As in the protocol; returns when all of the call's samples are out."""
        call = self._calls.get(request_id)
        if call is None:
            return
        await self._requests.abort(call)

    async def health(self) -> None:
        """As in the protocol; returns while one server can serve."""
        await self._pool.health()

    async def close(self) -> None:
        await self._pool.close()

    @property
    def max_model_len(self) -> int:
        return self._card.max_model_len

    @property
    def servers(self) -> tuple[Server, ...]:
        """All of them, those that are left out too."""
        return self._pool.servers

    async def update(self, update: Callable[[Server], Awaitable[None]], version: str) -> None:
        """Change the weights of all servers; those on which it fails are left out until the next time.

        Args:
            update: does it for one server, and names the version there.
            version: the version that servers must then report.

        Raises:
            EngineError: it failed everywhere.
        """
        await self._pool.update(update, version)

    def expect(self, version: str) -> None:
        """Say which weights the servers have now, where another process has changed them."""
        self._pool.expect(version)

    async def _admit(self, server: Server) -> None:
        """Raise what keeps a server from being used."""
        await server.control("GET", "/health", timeout=5.0)
        card = await identify(server, self._card.name)
        if card.max_model_len < self.max_model_len:
            raise ConfigError(
                f"{server.url} takes {card.max_model_len} tokens, other servers {self.max_model_len}"
            )
        if self._pool.version is not None:
            info = await server.control("GET", "/weight_info")
            if info["weight_version"] != self._pool.version:
                raise EngineError(f"{server.url} has other weights")
            server.version = self._pool.version
        await check(server, card, self.encode)


async def _card(server: Server, model: str | None) -> ServedModel | None:
    """The server's model; None if it can't be asked."""
    try:
        return await identify(server, model)
    except (ConnectionLost, EngineError) as error:
        server.reason = str(error)
        return None
