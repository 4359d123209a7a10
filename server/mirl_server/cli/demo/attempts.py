"""A question's answers: one greedy trajectory, a vote of sampled ones on the client, and MIRL's."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openai import OpenAI
from openai.types.chat.chat_completion import Choice

from mirl_client import Evidence, evidence
from mirl_core.algorithm.answers import group, normalize
from mirl_core.bundled import DemoQuestion
from mirl_core.presets import PresetName

VOTES = 16
"""Trajectories of a vote on the client."""
MAX_TOKENS = 256
"""Longest trajectory, in tokens; the bundled model's are much shorter."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer to a question, and its cost."""

    way: str
    answer: str | None
    right: bool
    """Whether the answer equals the true one."""
    tokens: int
    """Sampled tokens, as the response's usage counts them."""
    seconds: float
    """From the request to its response."""
    evidence: Evidence | None = None
    """None for the ways without MIRL."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Sends questions about pictures to a served model."""

    client: OpenAI
    model: str
    """The gated name; `:direct` behind it is the plain model."""
    temperature: float
    """Of the votes: the model's own, at which MIRL samples too."""

    def greedy(self, question: DemoQuestion, seed: int) -> Attempt:
        """Return the plain model's answer at temperature 0."""
        return self._plain("greedy", question, temperature=0.0, seed=seed)

    def votes(self, question: DemoQuestion, seed: int) -> Attempt:
        """Return the most frequent answer of trajectories that the plain model samples."""
        way = f"{VOTES} votes"
        return self._plain(way, question, temperature=self.temperature, n=VOTES, seed=seed)

    def mirl(self, question: DemoQuestion, preset: PresetName, seed: int) -> Attempt:
        """Return MIRL's answer with its evidence."""
        way = f"MIRL, {preset}"
        options = {"mirl": {"preset": preset}}
        return self._ask(way, self.model, question, gated=True, extra_body=options, seed=seed)

    def _plain(self, way: str, question: DemoQuestion, **fields: Any) -> Attempt:
        return self._ask(way, f"{self.model}:direct", question, gated=False, **fields)

    def _ask(self, way: str, model: str, question: DemoQuestion, gated: bool, **fields: Any) -> Attempt:
        image = "data:image/png;base64," + base64.b64encode(question.file.read_bytes()).decode()
        started = time.perf_counter()
        response = self.client.chat.completions.create(
            model=model,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": image}},
                        {"type": "text", "text": question.question},
                    ],
                }
            ],
            max_completion_tokens=MAX_TOKENS,
            **fields,
        )
        seconds = time.perf_counter() - started
        proof = evidence(response)
        assert (proof is not None) == gated, "a gated answer carries its evidence"
        tokens = response.usage.completion_tokens if response.usage else 0
        choices = response.choices
        answer = choices[0].message.content or "" if gated else vote(choices)
        right = answer is not None and normalize(answer) == normalize(question.answer)
        return Attempt(way, answer, right, tokens, seconds, proof)


def vote(choices: Sequence[Choice]) -> str | None:
    """Return the most frequent answer, the earliest of equally frequent ones; None where there is none."""
    # A choice that was cut off may have stopped within its answer.
    contents = [choice.message.content for choice in choices if choice.finish_reason == "stop"]
    answers = [content for content in contents if content]
    groups = group(answers)
    return answers[max(groups, key=len)[0]] if groups else None
