"""The arms of the comparison over HTTP: ways to answer a question on a picture, with the openai package."""

from __future__ import annotations

import base64
import io
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from mirl_client import evidence
from mirl_core.tasks.questions import Question

MAX_TOKENS = 256
"""Longest trajectory; tokens. The bundled model's are much shorter."""
GATED = "mirl-serve, gated"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """An arm's answer to one question, with its cost."""

    answer: str | None
    """None where the response has no answer."""
    seconds: float
    """Wall time of the caller."""
    prompt_tokens: int
    """`prompt_tokens` of the response's usage; 0 without usage."""
    sampled_tokens: int
    """`completion_tokens` of the response's usage; 0 without usage."""
    scored_tokens: int = 0
    """Tokens of scoring passes; only the gate has such passes."""


class Arm(Protocol):
    """A way to answer a question."""

    @property
    def name(self) -> str: ...

    @property
    def slow(self) -> bool:
        """Whether the arm runs on fewer questions."""
        ...

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        """Answer the question in `messages`."""
        ...


def chat(question: Question, picture: bool = True) -> list[dict[str, Any]]:
    """Return a question as OpenAI messages, its picture as a data URL."""
    text = {"type": "text", "text": question.text}
    if not picture:
        return [{"role": "user", "content": [text]}]
    packed = io.BytesIO()
    question.image().save(packed, "PNG")
    url = "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, text]}]


def answer_in(text: str | None) -> str | None:
    """Return the last closed answer in a trajectory of the bundled model; None without an answer."""
    matches = _ANSWER.findall(text or "")
    return matches[-1].strip() if matches else None


def answer_of(choice: Choice) -> str | None:
    """Return a choice's answer, whether its server splits trajectories or not; None without one."""
    content = choice.message.content or ""
    split = "<description>" not in content and "<answer>" not in content
    return (content or None) if split and choice.finish_reason == "stop" else answer_in(content)


def vote(choices: Sequence[Choice]) -> str | None:
    """Return the most frequent answer, the earliest among equally frequent ones; None without answers."""
    answers = [answer for choice in choices if (answer := answer_of(choice))]
    return Counter(answers).most_common(1)[0][0] if answers else None


@dataclass(frozen=True, slots=True)
class Gated:
    """A gated request to `mirl-serve`."""

    client: AsyncOpenAI
    model: str
    name: str = GATED
    options: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        started = time.perf_counter()
        response: ChatCompletion = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            seed=seed,
            max_completion_tokens=MAX_TOKENS,
            extra_body={"mirl": dict(self.options)} if self.options else None,
        )
        seconds = time.perf_counter() - started
        proof = evidence(response)
        assert proof is not None, "a gated answer carries its evidence"
        scored = sum(stage.scored_tokens for stage in proof.stages)
        return reply_of(response, response.choices[0].message.content, seconds, scored)


@dataclass(frozen=True, slots=True)
class Voting:
    """The best alternative without MIRL: `n` samples of a vLLM server, and a vote on the client."""

    client: AsyncOpenAI
    model: str
    n: int
    where: str
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.where}, one sample" if self.n == 1 else f"{self.where}, n={self.n} and a vote"

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        started = time.perf_counter()
        response: ChatCompletion = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            n=self.n,
            temperature=1.0,
            seed=seed,
            max_completion_tokens=MAX_TOKENS,
        )
        answer = vote(response.choices)
        return reply_of(response, answer, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Proxied:
    """A peer that samples and selects by itself, behind an OpenAI route."""

    client: AsyncOpenAI
    model: str
    name: str
    fields: Mapping[str, Any]
    """Further fields of the request's body."""
    slow: bool = True

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        started = time.perf_counter()
        response: ChatCompletion = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            # The field that both know: optillm asks for 4096 tokens where a request has none.
            max_tokens=MAX_TOKENS,
            extra_body=dict(self.fields),
        )
        return reply_of(response, answer_of(response.choices[0]), time.perf_counter() - started)


def reply_of(response: ChatCompletion, answer: str | None, seconds: float, scored: int = 0) -> Reply:
    """Return the reply of an arm with the token counts of the response's usage."""
    usage = response.usage
    prompt, sampled = (usage.prompt_tokens or 0, usage.completion_tokens) if usage else (0, 0)
    return Reply(answer, seconds, prompt, sampled, scored)
