"""The Engine protocol: everything the pipeline may ask of whatever runs the model.

Guarantees every engine gives:
- a conversation is rendered once, its images preprocessed once; forks reuse the rendering;
- log-probabilities are the model's own ("raw"): before temperature, top-p and grammar masks; nats;
- `generate` yields each of its `n` samples exactly once: finished, or with `finish_reason="abort"` and the
  tokens sampled until then;
- closing the iterator that `generate` returns leaves nothing of it running.
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
    """A conversation as the engine takes it, ending where the assistant's turn begins."""

    prompt_tokens: int
    """Length as the model sees it, image placeholders included; tokens."""
    inputs: Any
    """The engine's own form. Only the engine that made it may look inside."""


TOO_LONG = "the prompt is too long"
"""Anthropic's words. Clients that look at the message alone know those, or vLLM's, which follow."""


def checked_rendering(prompt_tokens: int, inputs: Any, max_model_len: int) -> Rendered:
    """A rendering that leaves room for an answer.

    Raises:
        ContextLengthError: it fills the model's context.
    """
    if prompt_tokens >= max_model_len:
        raise ContextLengthError(
            f"{TOO_LONG}: this model's maximum context length is {max_model_len} tokens, answer included; "
            f"messages are {prompt_tokens} tokens long with their images",
            param="messages",
        )
    return Rendered(prompt_tokens=prompt_tokens, inputs=inputs)


def too_long_to_score(max_model_len: int) -> ContextLengthError:
    """What refuses a description that doesn't fit behind its prompt."""
    return ContextLengthError(
        f"{TOO_LONG}: this model's maximum context length is {max_model_len} tokens; messages and a "
        "description are together longer than it can score",
        param="messages",
    )


def error_from_vllm(message: str, param: str | None) -> RequestError:
    """A error_from_vllm of vLLM's as an error of its own kind, which only its words tell."""
    if "maximum context length" in message:
        return ContextLengthError(f"{TOO_LONG}: {message}", param=param)
    return RequestError(message, param=param)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. None leaves the engine's default."""

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
    """Strings that end a sample; the one that did is included in its text."""
    seed: int | None = None
    """Branch j of a call samples with `derive_seed(seed, j)`; None: no seed."""
    alternatives: int = 0
    """How many of the likeliest tokens at each position go into `Sample.confidence`; 0: none is computed."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens at each position are in `Sample.likeliest`; None: none, and
    the pipeline doesn't tell the answer's tokens at all."""

    structure: str | None = None
    """A structural tag (xgrammar's JSON) that every sample follows from its first token to its end."""

    @property
    def ranked(self) -> int:
        """How many of the likeliest tokens at each position an engine has to look at."""
        return max(self.alternatives, self.top_logprobs or 0)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a request carries through to the engine besides its text."""

    request_id: str
    cache_salt: str | None = None
    """Separates tenants in the prefix cache."""
    priority: int = 0
    lora: Any = None
    trace_headers: TraceHeaders = ()
    """W3C trace context (`traceparent`, `tracestate`) of whoever asks, for engines that trace."""
    branch_traces: tuple[TraceHeaders, ...] = ()
    """The same by branch of one `generate` call; empty: every branch has `trace_headers`."""

    def of_branch(self, index: int) -> RequestContext:
        """The context of one branch of a `generate` call."""
        if not self.branch_traces:
            return self
        return replace(self, trace_headers=self.branch_traces[index], branch_traces=())


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled continuation of a rendered prompt plus suffix."""

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Raw log p of each sampled token; nats; as long as `token_ids`."""
    text: str
    finish_reason: FinishReason
    confidence: tuple[float, ...] = ()
    """Per sampled token, −1/k Σ_j log p(j) over the k = `Sampling.alternatives` likeliest tokens j at its
    position, from the raw log-probabilities; nats; empty for k = 0. High where the model is sure: the token
    confidence of Fu et al. 2025, "Deep Think with Confidence", section 2."""
    likeliest: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per sampled token, the `Sampling.top_logprobs` likeliest tokens at its position with their raw log p,
    the likeliest first; nats; empty for 0."""


class Engine(Protocol):
    """Runs one model. Every method may raise EngineError, and EngineDeadError once the engine is gone."""

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        """Apply the chat template, tokenize, preprocess images; never on the event loop.

        Raises:
            RequestError: the template refuses the conversation, or the prompt is longer than the model takes.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, without special tokens added."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`, tags kept, special tokens such as end-of-turn left out."""
        ...

    def token_text(self, token_id: int) -> str:
        """The spelling of one token by itself, special tokens too."""
        ...

    def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        """Sample `n` continuations of the prompt plus `suffix_ids`; yields each as it finishes.

        `context.request_id` must be unique among running calls; `abort` takes it.
        """
        ...

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        """Raw log p of every token of every suffix, each suffix by itself after the prompt; nats.

        Returns one tuple a suffix, as long as the suffix. Runs in token-bounded batches.
        """
        ...

    async def check_structure(self, structure: str) -> None:
        """Find out before sampling whether samples can be held to `Sampling.structure`.

        Raises:
            RequestError: this engine can't, or the structure is wrong.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a `generate` call: its unfinished samples come out with `finish_reason="abort"`."""
        ...

    async def health(self) -> None:
        """Return if the engine can serve; raise EngineDeadError if not."""
        ...

    async def close(self) -> None:
        """Free what the engine owns. An engine client that was handed in stays open."""
        ...

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion; tokens."""
        ...


def derive_seed(seed: int | None, *path: int | str) -> int | None:
    """A seed for one branch, from the request's seed and the branch's place: (stage, i, j).

    A hash, so that neighbouring requests (seed 1, seed 2) share no branch; 31 bits, which every engine takes.
    """
    if seed is None:
        return None
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
