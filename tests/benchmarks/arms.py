"""What is compared: ways to ask a vision-language model one question over HTTP, with the openai package."""

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

from mirl_client import evidence
from mirl_core.tasks.questions import Question

MAX_TOKENS = 256
"""Longest trajectory; the bundled model's are much shorter."""
GATED = "mirl-serve, gated"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Told:
    """What an arm said to one question, and what it cost."""

    answer: str | None
    seconds: float
    """Wall time of the caller."""
    prompt_tokens: int
    """As the answer's usage says; 0 where it says nothing."""
    sampled_tokens: int
    """`completion_tokens` of the answer's usage."""
    scored_tokens: int = 0
    """Tokens that were only scored; the gate alone does that."""


class Arm(Protocol):
    """One way to get an answer."""

    @property
    def name(self) -> str: ...

    @property
    def slow(self) -> bool:
        """Whether it gets fewer questions."""
        ...

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Told: ...


def chat(question: Question, picture: bool = True) -> list[dict[str, Any]]:
    """A question as an OpenAI conversation, its picture as a data URL."""
    text = {"type": "text", "text": question.text}
    if not picture:
        return [{"role": "user", "content": [text]}]
    packed = io.BytesIO()
    question.image().save(packed, "PNG")
    url = "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, text]}]


def answer_in(text: str | None) -> str | None:
    """The answer in a trajectory of the bundled model, as a user who knows its format takes it out."""
    found = _ANSWER.findall(text or "")
    return found[-1].strip() if found else None


def vote(texts: Sequence[str | None]) -> str | None:
    """The most frequent answer; the earliest of several that are equally frequent."""
    answers = [answer for text in texts if (answer := answer_in(text))]
    return Counter(answers).most_common(1)[0][0] if answers else None


@dataclass(frozen=True, slots=True)
class Gated:
    """`mirl-serve` with the gate."""

    client: AsyncOpenAI
    model: str
    name: str = GATED
    options: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Told:
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
        return told(response, response.choices[0].message.content, seconds, scored)


@dataclass(frozen=True, slots=True)
class Voting:
    """What a good engineer does without us: `n` samples of a vLLM server, and a vote on the client."""

    client: AsyncOpenAI
    model: str
    n: int
    where: str
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.where}, one sample" if self.n == 1 else f"{self.where}, n={self.n} and a vote"

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Told:
        started = time.perf_counter()
        response: ChatCompletion = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            n=self.n,
            temperature=1.0,
            seed=seed,
            max_completion_tokens=MAX_TOKENS,
        )
        answer = vote([choice.message.content for choice in response.choices])
        return told(response, answer, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Proxied:
    """A peer that samples and selects by itself, behind an OpenAI route of its own."""

    client: AsyncOpenAI
    model: str
    name: str
    fields: Mapping[str, Any]
    """What it wants in the request's body besides."""
    slow: bool = True

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Told:
        started = time.perf_counter()
        response: ChatCompletion = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            # The field that both know: optillm asks for 4096 tokens where a request has none.
            max_tokens=MAX_TOKENS,
            extra_body=dict(self.fields),
        )
        return told(response, answer_in(response.choices[0].message.content), time.perf_counter() - started)


def told(response: ChatCompletion, answer: str | None, seconds: float, scored: int = 0) -> Told:
    """An arm's answer with the response's own counts."""
    usage = response.usage
    prompt, sampled = (usage.prompt_tokens or 0, usage.completion_tokens) if usage else (0, 0)
    return Told(answer, seconds, prompt, sampled, scored)
