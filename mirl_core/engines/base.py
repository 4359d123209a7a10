"""The Engine protocol: all calls that the pipeline makes to the backend that runs the model.

Every engine guarantees:
- a conversation is rendered once, its images preprocessed once; forks reuse the rendering;
- log-probabilities are raw: before temperature, top-p and grammar masks; nats;
- `generate` yields each of its `n` samples exactly once: finished, or with `finish_reason="abort"` and the
  tokens sampled until then;
- closing the iterator that `generate` returns ends all its branches.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from mirl_core.errors import ContextLengthError, RequestError
from mirl_core.types import Conversation, FinishReason

ImageMode = Literal["keep", "drop"]
TraceHeaders = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation in an engine's form, up to the start of the assistant's turn."""

    prompt_tokens: int
    """Length that the model sees, image placeholders included; tokens."""
    inputs: Any
    """The engine's form, opaque to all but the engine that rendered it."""


TOO_LONG = "the prompt is too long"
"""Anthropic's wording. Clients that parse the message know it, or vLLM's wording, which follows."""


def checked_rendering(prompt_tokens: int, inputs: Any, max_model_len: int) -> Rendered:
    """Return a rendering that leaves room for an answer.

    Raises:
        ContextLengthError: the prompt fills the model's context.
    """
    if prompt_tokens >= max_model_len:
        raise ContextLengthError(
            f"{TOO_LONG}: this model's maximum context length is {max_model_len} tokens, answer included; "
            f"messages are {prompt_tokens} tokens long with their images",
            param="messages",
        )
    return Rendered(prompt_tokens=prompt_tokens, inputs=inputs)


def too_long_to_score(max_model_len: int) -> ContextLengthError:
    """Return the error for a prompt plus description that is longer than the context."""
    return ContextLengthError(
        f"{TOO_LONG}: this model's maximum context length is {max_model_len} tokens; messages and a "
        "description are together longer than it can score",
        param="messages",
    )


def error_from_vllm(message: str, param: str | None) -> RequestError:
    """Return MIRL's error for a refusal by vLLM, whose type only the message shows."""
    if "maximum context length" in message:
        return ContextLengthError(f"{TOO_LONG}: {message}", param=param)
    return RequestError(message, param=param)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling settings of one `generate` call."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    """Strings that end a sample; its text includes the stop string that ended it."""
    seed: int | None = None
    """Branch j of a call samples with `branch_seed(j)`; None: no seed."""
    first_branch: int = 0
    """Number of the call's first branch, for its seed: two calls may share the branches of one."""
    alternatives: int = 0
    """How many of the likeliest tokens at each position go into `Sample.confidence`; 0: no confidence."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens at each position are in `Sample.likeliest`; None: none, and the
    pipeline's result leaves out the answer's tokens."""
    structure: str | None = None
    """A structural tag (xgrammar's JSON) that every sample follows from its first token; None: no tag."""

    @property
    def ranked(self) -> int:
        """How many of the likeliest tokens at each position an engine must read."""
        return max(self.alternatives, self.top_logprobs or 0)

    def branch_seed(self, index: int) -> int | None:
        """Return the seed of the call's branch `index`, counted from 0."""
        return derive_seed(self.seed, self.first_branch + index)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Properties of a request, beside its text, that the pipeline passes on to the engine."""

    request_id: str
    cache_salt: str | None = None
    """Separates tenants in the prefix cache."""
    priority: int = 0
    lora: Any = None
    trace_headers: TraceHeaders = ()
    """The caller's W3C trace context (`traceparent`, `tracestate`), for engines that trace."""
    branch_traces: tuple[TraceHeaders, ...] = ()
    """Trace headers by branch of a `generate` call; empty: every branch has `trace_headers`."""

    def of_branch(self, index: int) -> RequestContext:
        """Return the context of one branch of a `generate` call."""
        if not self.branch_traces:
            return self
        return replace(self, trace_headers=self.branch_traces[index], branch_traces=())


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled continuation of a rendered prompt plus suffix."""

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Raw log p of each sampled token, nats; as long as `token_ids`."""
    text: str
    finish_reason: FinishReason
    confidence: tuple[float, ...] = ()
    """Per sampled token, −1/k Σ_j log p(j) over the k = `Sampling.alternatives` likeliest tokens j at its
    position, from raw log-probabilities; nats; empty for k = 0. High where the model is sure: the token
    confidence of Fu et al. 2025, "Deep Think with Confidence", section 2."""
    likeliest: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per sampled token, the `Sampling.top_logprobs` likeliest tokens at its position with their raw log p,
    nats, the likeliest first; empty for 0 or None."""


class Engine(Protocol):
    """Runs one model. Every method may raise EngineError, and EngineDeadError once the engine is gone."""

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        """Apply the chat template, tokenize and preprocess images, without blocking the event loop.

        Raises:
            RequestError: the template refuses the conversation, or the prompt fills the model's context.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text`, without special tokens added."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids` with tags, without special tokens such as end-of-turn."""
        ...

    def token_text(self, token_id: int) -> str:
        """Return the text of a single token, special or not."""
        ...

    def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        """Sample `n` continuations of the prompt plus `suffix_ids`; yield each as it finishes.

        `context.request_id` must be unique among running calls; `abort` refers to it.
        """
        ...

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        """Return raw log p of every token of every suffix, each directly after the prompt; nats.

        Returns a tuple per suffix, as long as the suffix. Runs in token-bounded batches.

        Raises:
            ContextLengthError: the prompt plus a suffix doesn't fit the model's context.
        """
        ...

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        """Return raw log p by token id at each position of `suffix_ids` from `start` on; nats.

        Each dict has the `top` likeliest tokens at its position and the suffix's own token, which may be one
        of them: `top` or `top` + 1 entries, fewer where the vocabulary is smaller. Position i is predicted
        from the prompt plus `suffix_ids[:i]`, position 0 from the prompt alone.

        Raises:
            ContextLengthError: the prompt plus the suffix doesn't fit the model's context.
            RequestError: `top` is more than the backend returns (vLLM: `max_logprobs`, by default 20).
        """
        ...

    async def check_structure(self, structure: str) -> None:
        """Check, before sampling, that samples can be held to `Sampling.structure`.

        Raises:
            RequestError: this engine can't constrain samples, or the structure is wrong.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a `generate` call, which then yields unfinished samples with `finish_reason="abort"`."""
        ...

    async def health(self) -> None:
        """Check that the engine can serve.

        Raises:
            EngineDeadError: it can't.
        """
        ...

    async def close(self) -> None:
        """Free the engine's resources. An engine client that was passed in stays open."""
        ...

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion; tokens."""
        ...


def derive_seed(seed: int | None, *path: int | str) -> int | None:
    """Return the seed of a branch, from the request's seed and the branch's path (stage, i, j).

    A hash, so that requests with neighbouring seeds (1, 2) share no branch; 31 bits, which every engine
    accepts. None without a request seed.
    """
    if seed is None:
        return None
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
