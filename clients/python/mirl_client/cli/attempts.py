"""The plain model's answers beside MIRL's: greedy, and a vote of samples on the client."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from openai.types.chat.chat_completion import Choice

from mirl_client.answers import Message
from mirl_client.client import Mirl
from mirl_client.evidence import Evidence
from mirl_client.requests import DIRECT

VOTES = 16
"""Samples of a vote on the client."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer to a question, and its cost."""

    way: str
    answer: str | None
    tokens: int
    """Sampled tokens, as the response's usage counts them."""
    seconds: float
    """From the request to its response."""


def plain_attempts(client: Mirl, model: str, messages: Sequence[Message], seed: int | None) -> list[Attempt]:
    """Return the plain model's greedy answer and the most frequent one of `VOTES` samples at temperature 1.

    Args:
        model: the gated name.
        messages: the conversation up to the question.
        seed: the seed of the samples; None: the server's choice.
    """
    return [
        _attempt(client, "greedy", model, messages, seed, temperature=0.0),
        _attempt(client, f"{VOTES} votes", model, messages, seed, temperature=1.0, n=VOTES),
    ]


def _attempt(
    client: Mirl, way: str, model: str, messages: Sequence[Message], seed: int | None, **fields: Any
) -> Attempt:
    started = time.perf_counter()
    sent: Any = messages
    if seed is not None:
        fields["seed"] = seed
    response = client.openai.chat.completions.create(
        model=f"{model.removesuffix(DIRECT)}{DIRECT}", messages=sent, **fields
    )
    seconds = time.perf_counter() - started
    tokens = response.usage.completion_tokens if response.usage else 0
    return Attempt(way, majority(response.choices), tokens, seconds)


def majority(choices: Iterable[Choice]) -> str | None:
    """Return the most frequent answer, the earliest of equally frequent ones; None where there is none.

    Answers are equal where they read the same but for case, spaces and a full stop, or are the same number.
    """
    # A choice that was cut off may have stopped within its answer.
    contents = [choice.message.content for choice in choices if choice.finish_reason == "stop"]
    answers = [content.strip() for content in contents if content and content.strip()]
    counts = Counter(map(_key, answers))
    return max(answers, key=lambda answer: counts[_key(answer)]) if answers else None


def _key(answer: str) -> str:
    text = " ".join(answer.casefold().split()).removesuffix(".")
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return str(number.normalize()) if number.is_finite() else text


def full_answers_tokens(details: Evidence, count: int = VOTES) -> int | None:
    """Return about how many tokens `count` full answers, each with a description of its own, would sample.

    The estimate is from the answer's own complete descriptions and chains; None where it has none.
    """
    chains = [chain.tokens for chain in details.chains if chain.finish_reason == "stop"]
    cut = ("truncated", "stopped", "empty")
    described = [each.tokens for each in details.descriptions if each.reason not in cut]
    if not chains:
        return None
    description = sum(described) / len(described) if described else 0.0
    return round(count * (description + sum(chains) / len(chains)))
