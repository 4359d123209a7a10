"""An engine without a model: it returns the samples that a test scripts, and records its calls.

It keeps the protocol's guarantees (`engines/base.py`) and makes them visible to tests: `running` is zero once
every generator is closed, and `sampled_tokens` counts each sampled token once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mirl_core.engines.base import Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.common.branches import Branches
from mirl_core.engines.common.samples import likeliest_first, token_confidence
from mirl_core.errors import ContextLengthError, MIRLError
from mirl_core.types import Conversation, FinishReason

Kind = Literal["render", "describe", "score", "fork", "plain"]
EOS = 0
UNLIKELY = -20.0
"""Log p of a token that a `likeliest` function leaves out; nats."""
_PIECE = re.compile(r"<[^<>\s]+>|\s*[^\s<]+|\s+|<")


@dataclass(frozen=True)
class FakeText:
    """A scripted sample, verbatim: a complete description includes its closing tag.

    `logprobs` and `marginal` are nats: a number applies to every token, a sequence has one value per token (a
    shorter sequence repeats its last value). `score` returns `marginal` for this text. Where a call wants
    alternatives, each is as likely as the sampled token, so a token's confidence is minus its logprob. The
    likeliest tokens are the sampled token, then the first tokens of the vocabulary, each a nat less likely.
    """

    text: str
    logprobs: float | Sequence[float] = -1.0
    marginal: float | Sequence[float] = -2.0
    finish_reason: FinishReason = "stop"
    delay: float | None = None
    """Seconds per token; None: the engine's delay."""


@dataclass(frozen=True)
class FakeCall:
    """A recorded call of the engine."""

    kind: Kind
    request_id: str
    conversation: Conversation
    suffixes: tuple[tuple[int, ...], ...] = ()
    """The suffix of a `generate` or `score_likeliest` call; all suffixes of a `score` call."""
    n: int = 0
    sampling: Sampling | None = None


Chains = Callable[[str, int], FakeText | str] | Sequence[FakeText | str]
Scorer = Callable[[Conversation, tuple[int, ...]], Sequence[float]]
Likeliest = Callable[[Conversation, tuple[int, ...]], Mapping[int, float]]


class _Step(NamedTuple):
    """A token that a sample is going to have."""

    token: int
    logprob: float
    ranked: tuple[tuple[int, float], ...] | None
    """Tokens and their log p, the likeliest first; None in a script."""


class FakeEngine:
    """An engine with scripted samples.

    Args:
        descriptions: sample j of a describe call is number j modulo their count.
        chains: the chains; a function maps (the suffix's text, branch number) to a chain, a sequence is used
            in order over all fork calls, and from its start again after its end.
        plain: chains of a call without any suffix (the fallback); None: `chains`.
        score: (conversation, suffix ids) → nats per token, instead of the scripted marginals.
        likeliest: (conversation, ids after the prompt so far) → log p by token of the next token, nats. All
            scores are read from it instead; a token that it leaves out has -20 nats. At temperature 0 a
            sample has its likeliest tokens, up to the end-of-turn token or an empty mapping. The scripts
            apply at other temperatures, and where the mapping is empty at the sample's start.
        delay: seconds per token; 0 lets the event loop turn once per token.
        fail_at: the error to raise, by kind of call (`render`, `structure`, `describe`, `score`, `fork`,
            `plain`, `health`).
        fail_after: how many samples a failing generate call yields before it raises.
        tags: opening and closing tag of a description, which tell describe calls from forks.
        eos: whether samples with finish reason `stop` end with an end-of-turn token, which has no text.
        max_model_len: longest prompt plus completion; tokens.
    """

    def __init__(
        self,
        descriptions: Sequence[FakeText | str] = ("a thing</description>",),
        chains: Chains = ("<think>so</think><answer>1</answer>",),
        *,
        plain: Chains | None = None,
        score: Scorer | None = None,
        likeliest: Likeliest | None = None,
        delay: float = 0.0,
        fail_at: Mapping[str, MIRLError] | None = None,
        fail_after: int = 0,
        tags: tuple[str, str] = ("<description>", "</description>"),
        eos: bool = False,
        max_model_len: int = 4096,
    ) -> None:
        self._descriptions = [_text(item) for item in descriptions]
        self._chains = chains
        self._plain = chains if plain is None else plain
        self._score = score
        self._next_tokens = likeliest
        self._delay = delay
        self._fail_at = dict(fail_at or {})
        self._fail_after = fail_after
        self._tags = tags
        self._eos = eos
        self._max_model_len = max_model_len
        self._words: list[str] = [""]
        self._ids: dict[str, int] = {"": EOS}
        self._next_chain = 0
        self._stops: dict[str, asyncio.Event] = {}
        self.calls: list[FakeCall] = []
        self.rendered: list[Conversation] = []
        self.aborted: list[str] = []
        self.running = 0
        """Sequences being sampled or scored now."""
        self.sampled_tokens = 0
        """Tokens sampled so far, including those of closed generators."""
        self.closed = False

    def of_kind(self, kind: Kind) -> list[FakeCall]:
        """Return the calls of a kind, in order."""
        return [call for call in self.calls if call.kind == kind]

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        self.calls.append(FakeCall("render", context.request_id, conversation))
        self.rendered.append(conversation)
        await asyncio.sleep(0)
        self._fail("render")
        words = sum(len(self.encode(str(message.get("content")))) for message in conversation.messages)
        if words > self._max_model_len:
            raise ContextLengthError(
                f"the prompt is longer than {self._max_model_len} tokens", param="messages"
            )
        return Rendered(prompt_tokens=words, inputs=conversation)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._id(piece) for piece in _PIECE.findall(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._words[token] for token in token_ids)

    def token_text(self, token_id: int) -> str:
        return self._words[token_id]

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        suffix = self.decode(suffix_ids)
        kind: Kind = "fork" if self._tags[1] in suffix else "describe" if self._tags[0] in suffix else "plain"
        name = context.request_id
        self.calls.append(FakeCall(kind, name, rendered.inputs, (tuple(suffix_ids),), n, sampling))
        if name in self._stops:
            raise AssertionError(f"request id {name!r} is running already")
        stop = self._stops[name] = asyncio.Event()
        follows = sampling.temperature == 0 and bool(self._likeliest_after(rendered.inputs, suffix_ids))
        scripts = [
            FakeText("") if follows else self._script(kind, suffix, sampling.first_branch + j)
            for j in range(n)
        ]

        def sample(j: int) -> Coroutine[Any, Any, Sample]:
            script = scripts[j]
            steps = self._decoded(rendered.inputs, suffix_ids) if follows else self._scripted(script)
            return self._sample(j, script, steps, sampling, stop)

        try:
            async with Branches(sample, n) as branches:
                for count in range(n):
                    if count >= self._fail_after:
                        self._fail(kind)
                    yield await branches.next_sample()
        finally:
            del self._stops[name]

    async def _sample(
        self, index: int, script: FakeText, steps: Iterator[_Step], sampling: Sampling, stop: asyncio.Event
    ) -> Sample:
        """Sample a branch, a token per `delay`, until its steps, a stop string, the limit or an abort."""
        sampled: list[_Step] = []
        tokens: list[int] = []
        reason = script.finish_reason
        delay = self._delay if script.delay is None else script.delay
        self.running += 1
        try:
            for step in steps:
                if await _set_within(stop, delay):
                    reason = "abort"
                    break
                sampled.append(step)
                tokens.append(step.token)
                self.sampled_tokens += 1
                if any(self.decode(tokens).endswith(end) for end in sampling.stop):
                    reason = "stop"
                    break
                if len(tokens) == sampling.max_tokens:
                    reason = "length"
                    break
        finally:
            self.running -= 1
        logprobs = tuple(step.logprob for step in sampled)
        alternatives, top = sampling.alternatives, sampling.top_logprobs
        confidence = tuple(_confidence(step, alternatives) for step in sampled if alternatives)
        likeliest = tuple(self._ranked(step)[:top] for step in sampled if top)
        return Sample(index, tuple(tokens), logprobs, self.decode(tokens), reason, confidence, likeliest)

    def _scripted(self, script: FakeText) -> Iterator[_Step]:
        """Yield the script's tokens."""
        ends = [EOS] if self._eos and script.finish_reason == "stop" else []
        tokens = [*self.encode(script.text), *ends]
        for token, logprob in zip(tokens, _values(script.logprobs, len(tokens)), strict=True):
            yield _Step(token, logprob, None)

    def _decoded(self, conversation: Conversation, suffix: Sequence[int]) -> Iterator[_Step]:
        """Yield the likeliest token, then the likeliest after that, up to the end-of-turn token."""
        ids = tuple(suffix)
        while logprobs := self._likeliest_after(conversation, ids):
            ranked = likeliest_first(logprobs)
            yield _Step(*ranked[0], ranked)
            ids += (ranked[0][0],)
            if ids[-1] == EOS:
                return

    def _likeliest_after(self, conversation: Conversation, suffix: Sequence[int]) -> Mapping[int, float]:
        return {} if self._next_tokens is None else self._next_tokens(conversation, tuple(suffix))

    def _ranked(self, step: _Step) -> tuple[tuple[int, float], ...]:
        if step.ranked is not None:
            return step.ranked
        others = [other for other in range(1, len(self._words)) if other != step.token]
        return tuple((token, step.logprob - rank) for rank, token in enumerate([step.token, *others]))

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        ids = tuple(tuple(suffix) for suffix in suffixes)
        await self._run_score(rendered, ids, context)
        return [self._scores(rendered.inputs, suffix) for suffix in ids]

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        suffix = tuple(suffix_ids)
        await self._run_score(rendered, (suffix,), context)
        own = self._scores(rendered.inputs, suffix)
        return [
            dict(likeliest_first(self._likeliest_after(rendered.inputs, suffix[:i]))[:top])
            | {suffix[i]: own[i]}
            for i in range(start, len(suffix))
        ]

    async def _run_score(
        self, rendered: Rendered, suffixes: tuple[tuple[int, ...], ...], context: RequestContext
    ) -> None:
        """Record a call that scores, and take its time."""
        self.calls.append(FakeCall("score", context.request_id, rendered.inputs, suffixes))
        self.running += len(suffixes)
        try:
            await asyncio.sleep(self._delay)
            self._fail("score")
        finally:
            self.running -= len(suffixes)

    def _scores(self, conversation: Conversation, suffix: tuple[int, ...]) -> tuple[float, ...]:
        """Return log p of each token of the suffix, nats."""
        if self._next_tokens is not None:
            return tuple(
                self._next_tokens(conversation, suffix[:i]).get(token, UNLIKELY)
                for i, token in enumerate(suffix)
            )
        if self._score is not None:
            return tuple(self._score(conversation, suffix))
        return self._marginal(suffix)

    def _marginal(self, suffix: tuple[int, ...]) -> tuple[float, ...]:
        """Return the scripted marginals of the description that starts with `suffix`, nats.

        Each token of the opening tag has -1 nat.
        """
        opening = self.encode(self._tags[0])
        start = len(opening) if suffix[: len(opening)] == opening else 0
        content = suffix[start:]
        for script in self._descriptions:
            if self.encode(script.text)[: len(content)] == content:
                return (-1.0,) * start + _values(script.marginal, len(content))
        raise AssertionError(f"nothing scripted starts with {self.decode(content)!r}")

    async def check_structure(self, structure: str) -> None:
        self._fail("structure")

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        if request_id in self._stops:
            self._stops[request_id].set()

    async def health(self) -> None:
        self._fail("health")

    async def close(self) -> None:
        self.closed = True

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def _script(self, kind: Kind, suffix: str, j: int) -> FakeText:
        if kind == "describe":
            return self._descriptions[j % len(self._descriptions)]
        chains = self._plain if kind == "plain" else self._chains
        if callable(chains):
            return _text(chains(suffix, j))
        self._next_chain += 1
        return _text(chains[(self._next_chain - 1) % len(chains)])

    def _fail(self, kind: str) -> None:
        if kind in self._fail_at:
            raise self._fail_at[kind]

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._words)
            self._words.append(piece)
        return self._ids[piece]


def _text(item: FakeText | str) -> FakeText:
    return FakeText(item) if isinstance(item, str) else item


def _values(values: float | Sequence[float], count: int) -> tuple[float, ...]:
    if isinstance(values, int | float):
        return (float(values),) * count
    return tuple(float(values[min(i, len(values) - 1)]) for i in range(count))


def _confidence(step: _Step, alternatives: int) -> float:
    if step.ranked is None:
        return -step.logprob
    return token_confidence([logprob for _, logprob in step.ranked[:alternatives]])


async def _set_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until `stop` is set, at most `seconds`; return whether it is."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return stop.is_set()
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
