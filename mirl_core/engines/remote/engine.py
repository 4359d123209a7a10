"""The engine over HTTP: one or more vLLM servers of one model, for gateways, for training beside a fleet of
samplers and for processes without a GPU. Needs neither vLLM nor torch.

Servers run vLLM 0.32 or 0.33 with `--enable-scale-out`: `mirl-serve MODEL --enable-scale-out`. Servers
without it, and other servers of the OpenAI API, can be used in chat mode, which is not token-exact
(see `chat.requests`).

- The tokenizer is loaded in this process (transformers, no torch), because encoding and decoding are
  synchronous in the protocol and `/detokenize` keeps special tokens. Every server must have the same
  tokenizer; a check compares them.
- A conversation stays on the server that rendered it, where its prefix is cached: drafts, forks and scores.
  New conversations go to the least loaded server, or to the one that had their image or their beginning
  before, if that is not much busier (`pool.balance`).
- A server that fails is left out and checked again after a growing wait (`pool.breaker`); its conversations
  move. A request moves only as long as nothing of it was delivered, and is sent twice at most (`sending`).
- Each branch is a separate request for tokens: it has a seed and an end that no other branch shares. A
  cancelled or aborted branch ends on the server too. A finished branch is never sampled again.
- A server that samples with other weights than were pushed to it (after a restart) is left out.
- A server that joins is checked: version of vLLM, model, context length, tokenizer, raw log-probabilities.
  What is wrong stands in its state (`Pool.states`). With `required=False` the engine outlives its servers: it
  starts without any, and is ready once one has joined.

Differences from the engine in process:
- Images are preprocessed once, but for the first prompt with images, which is also rendered in full (see
  `tokens.requests`).
- `Sampling.ranked` must be below the server's `--max-logprobs` (20): vLLM returns as many values as the
  request asks for, the sampled token's among them. `score_likeliest` takes all 20.
- Long prompts are scored through the prefix cache only with `--enable-prompt-tokens-details`; the values are
  the same without.
- A model is refused at its first image if none of the tokens in the image's range is the placeholder.
- The operator of a CPU server ensures that seeds are safe; `mirl-serve` does.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
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
from mirl_core.engines.common.branches import Branches, registered
from mirl_core.engines.common.samples import empty_sample
from mirl_core.engines.common.scoring import (
    Positions,
    distinct_suffixes,
    score_suffixes,
    scores_in_order,
)
from mirl_core.engines.common.structures import check_structural_tag
from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.remote.calls import Requester, RunningCall
from mirl_core.engines.remote.chat.requests import ChatRequests, Deviation
from mirl_core.engines.remote.checks import ServedModel
from mirl_core.engines.remote.joining import Joining, Profile, WantedMode
from mirl_core.engines.remote.pool.addresses import Resolve, addresses_of
from mirl_core.engines.remote.pool.pool import Pool
from mirl_core.engines.remote.pool.settings import PoolSettings
from mirl_core.engines.remote.prompt import render_request
from mirl_core.engines.remote.server import Server, checked_url
from mirl_core.engines.remote.tokens.requests import TokenRequests
from mirl_core.errors import ConfigError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    import httpx


STRUCTURES = 256
"""Most structural tags that are remembered as parsed."""


class RemoteEngine:
    """Runs one model on vLLM servers. `start` connects to them and returns an engine.

    Args:
        servers: at least one, unless `names` are looked up.
        model: the model, as the servers list it; None: see `joining`.
        tokenizer: transformers' tokenizer of the model; None: see `joining`.
        banned: tokens that are never sampled: media placeholders.
        score_batch_tokens: most prompt-plus-suffix tokens that one `score` call has in flight.
        keep_special: special tokens that stay in text: for tokenizers whose tags are special tokens.
        joining: checks servers, and learns model and tokenizer from the first; None: they are given.
        settings: of the pool.
        names: base URLs whose names stand for several servers.
        make: makes a server from a base URL and an address.
        resolve: looks names up.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        model: ServedModel | None = None,
        tokenizer: Any = None,
        banned: frozenset[int] = frozenset(),
        *,
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
        joining: Joining | None = None,
        settings: PoolSettings | None = None,
        names: Sequence[str] = (),
        make: Callable[[str, str], Server] | None = None,
        resolve: Resolve = addresses_of,
    ) -> None:
        if joining is None:
            if model is None:
                raise ValueError("neither a model nor how to learn it is given")
            joining = Joining(profile=Profile(model, TextCodec(tokenizer, keep_special), banned))
        self._joining = joining
        self._pool = Pool(
            servers,
            self._admit,
            settings=settings,
            probe=self._probe,
            names=names,
            make=make,
            resolve=resolve,
        )
        self._score_batch_tokens = score_batch_tokens
        self._requester: Requester | None = None
        self._calls: dict[str, RunningCall] = {}
        self._structures: OrderedDict[str, None] = OrderedDict()

    @classmethod
    async def start(
        cls,
        urls: Sequence[str],
        *,
        model: str | None = None,
        tokenizer: str | None = None,
        mode: WantedMode = "tokens",
        api_key: str | None = None,
        connections: int = 512,
        timeout: float = 600.0,  # noqa: ASYNC109 - limits each answer, not this call
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
        required: bool = True,
        settings: PoolSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        resolve: Resolve = addresses_of,
    ) -> RemoteEngine:
        """Connect to servers and check them.

        Args:
            urls: base URLs, with or without `/v1`. With `settings.resolve_seconds`, a URL's name stands for
                as many servers as it has addresses.
            model: the servers' name of it; None: the first model in their lists.
            tokenizer: folder or hub name of the model, for its tokenizer and config; None: the name under
                which the servers loaded it, which must then be valid here too.
            mode: `tokens`: token routes, exact; `chat`: chat completions; `auto`: token routes if the server
                that joins first has them.
            api_key: sent as bearer token.
            connections: most requests in flight to one server; further requests wait.
            timeout: longest wait for one answer; seconds.
            score_batch_tokens: see the class.
            keep_special: see the class.
            required: whether a server must be up by the time this returns.
            settings: when servers are left out, checked and looked up.
            transport: replaces httpx's transport in tests.
            resolve: looks names up.

        Raises:
            ConfigError: a URL is wrong; or, if a server is required, the model, the tokenizer or a server's
                flags are.
            EngineDeadError: a server is required and none answers.
        """
        if not urls:
            raise ConfigError("no server is named")
        chosen = settings or PoolSettings()

        def make(url: str, address: str | None) -> Server:
            return Server(
                url,
                address=address,
                api_key=api_key,
                connections=connections,
                timeout=timeout,
                transport=transport,
            )

        checked = list(dict.fromkeys(checked_url(url) for url in urls))
        names = checked if chosen.resolve_seconds is not None else []
        engine = cls(
            [make(url, None) for url in checked if url not in names],
            score_batch_tokens=score_batch_tokens,
            joining=Joining(model, tokenizer, mode, keep_special),
            settings=chosen,
            names=names,
            make=make,
            resolve=resolve,
        )
        try:
            await engine._pool.start(required=required)
        except BaseException:
            # On cancellation too: otherwise the connections would stay open without an owner.
            await engine.close()
            raise
        return engine

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        await self._pool.ensure()
        name = self.profile.model.name
        request = await asyncio.to_thread(render_request, conversation, name, context.cache_salt)
        tokens, prompt = await self._requests.render(request, context)
        return checked_rendering(tokens, prompt, self.max_model_len)

    def encode(self, text: str) -> tuple[int, ...]:
        return self.profile.text.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.profile.text.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        return self.profile.text.token(token_id)

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
        with registered(self._calls, context.request_id, RunningCall()) as call:

            async def sample(index: int) -> Sample:
                try:
                    drawn = await self._requests.sample(
                        rendered.inputs, suffix_ids, index, sampling, context.of_branch(index), call
                    )
                except asyncio.CancelledError:
                    # `abort` cancels the branches that their server doesn't end.
                    if not call.aborted:
                        raise
                    drawn = None
                return empty_sample(index, "abort") if drawn is None else drawn

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
        """See `Engine.check_structure`; a server parses the structure."""
        if structure in self._structures:
            return
        await asyncio.to_thread(check_structural_tag, structure)
        await self._requests.check_structure(structure)
        self._structures[structure] = None
        while len(self._structures) > STRUCTURES:
            self._structures.popitem(last=False)

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
    def profile(self) -> Profile:
        """What all servers have in common: the model, its tokenizer, the mode.

        Raises:
            EngineDeadError: no server has joined yet.
        """
        return self._joining.profile

    @property
    def max_model_len(self) -> int:
        return self.profile.model.max_model_len

    @property
    def ready(self) -> bool:
        """Whether a server is up."""
        return self._pool.ready

    @property
    def token_exact(self) -> bool:
        """Whether forks and scores are of exactly the sampled tokens; False in chat mode."""
        return self.profile.mode == "tokens"

    @property
    def inexact_reason(self) -> str | None:
        """Why the engine is not token-exact; None if it is."""
        if self.token_exact:
            return None
        return (
            "descriptions travel as text through chat completions, and servers may read them as other "
            "tokens; start the servers with --enable-scale-out for token-exact forks and scores"
        )

    @property
    def scores(self) -> bool:
        """Whether servers return log-probabilities of prompts; without, only mi_weight 0 can be served."""
        return self.token_exact or self.profile.abilities.prompt_logprobs

    @property
    def deviation(self) -> Deviation | None:
        """How often servers read a scored suffix as other tokens; None where the engine is token-exact."""
        return self._requests.deviation if isinstance(self._requests, ChatRequests) else None

    @property
    def pool(self) -> Pool:
        """The servers: `pick` one for other requests, `remember` it for a key; `states` of all."""
        return self._pool

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
        return await self._requests.positions(rendered.inputs, rendered.prompt_tokens, context)

    @property
    def _requests(self) -> Requester:
        if self._requester is None:
            profile = self.profile
            kind = TokenRequests if profile.mode == "tokens" else ChatRequests
            self._requester = kind(self._pool, profile)
        return self._requester

    async def _admit(self, server: Server) -> None:
        await self._joining.admit(server, self._pool.weights_version)

    async def _probe(self, server: Server) -> None:
        await self._requests.probe(server)
