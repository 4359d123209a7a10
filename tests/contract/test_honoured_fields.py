"""Each field that a gated request honours, by itself: what it changes, or that it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from mirl_client import Evidence, evidence
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME, RunningServer

MESSAGES = image_question(seed=1)
ALIKE = {"seed": 1, "max_tokens": 150}
"""Serial requests with a seed repeat exactly, if nothing ends chains early."""


def create(server: RunningServer, extra: dict[str, Any] | None = None, **fields: Any) -> ChatCompletion:
    """Return the answer to a small request with `fields`, and `extra`, which OpenAI's API does not have."""
    made: ChatCompletion = server.client().chat.completions.create(
        model=NAME,
        messages=MESSAGES,
        extra_body={**small_fan_out(early_stop=False), **(extra or {})},
        **fields,
    )
    return made


def evidence_of(response: ChatCompletion) -> Evidence:
    details = evidence(response)
    assert details is not None
    return details


def samples(response: ChatCompletion) -> tuple[list[str], list[str | None]]:
    """Return the texts of all descriptions and the answers of all chains."""
    details = evidence_of(response)
    return [d.text for d in details.descriptions], [chain.answer for chain in details.chains]


@pytest.fixture(scope="module")
def plain(server: RunningServer) -> ChatCompletion:
    """Return the answer that no further field has changed."""
    return create(server, **ALIKE)


@pytest.fixture(scope="module")
def greedy(server: RunningServer) -> ChatCompletion:
    """Return the answer at temperature 0."""
    return create(server, **ALIKE, temperature=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone"}, {"metadata": {"run": "1"}}, {"n": 1}, {"logprobs": False}, {"top_p": 1.0},
        {"presence_penalty": 0.0}, {"frequency_penalty": 0.0}, {"extra": {"priority": 0}},
        {"extra": {"top_k": 0}}, {"extra": {"min_p": 0.0}}, {"extra": {"repetition_penalty": 1.0}},
        {"extra": {"chat_template_kwargs": {"colour": "red"}}}, {"extra": {"include_reasoning": True}},
    ],
    ids=str,
)  # fmt: skip
def test_what_asks_for_nothing_changes_nothing(
    server: RunningServer, plain: ChatCompletion, fields: dict[str, Any]
) -> None:
    response = create(server, **ALIKE, **fields)
    assert response.choices == plain.choices
    assert response.usage == plain.usage
    assert samples(response) == samples(plain)


def test_a_seed_decides(server: RunningServer, plain: ChatCompletion) -> None:
    assert samples(create(server, **ALIKE)) == samples(plain)
    assert samples(create(server, **{**ALIKE, "seed": 2}))[0] != samples(plain)[0]


def test_temperature_spreads_the_descriptions(
    server: RunningServer, plain: ChatCompletion, greedy: ChatCompletion
) -> None:
    assert len(set(samples(greedy)[0])) == 1
    assert len(set(samples(plain)[0])) == 3


@pytest.mark.parametrize(
    "fields", [{"top_p": 1e-6}, {"extra": {"top_k": 1}}, {"extra": {"min_p": 1.0}}], ids=str
)
def test_only_the_likeliest_token_is_left(
    server: RunningServer, greedy: ChatCompletion, fields: dict[str, Any]
) -> None:
    assert samples(create(server, **ALIKE, temperature=2.0, **fields)) == samples(greedy)


@pytest.mark.parametrize(
    "penalty",
    [
        {"presence_penalty": 2.0}, {"presence_penalty": -2.0}, {"frequency_penalty": 2.0},
        {"frequency_penalty": -2.0}, {"extra": {"repetition_penalty": 2.0}},
        {"extra": {"repetition_penalty": 0.5}},
    ],
    ids=str,
)  # fmt: skip
def test_penalties_change_what_is_likeliest(
    server: RunningServer, greedy: ChatCompletion, penalty: dict[str, Any]
) -> None:
    descriptions, _ = samples(create(server, **ALIKE, temperature=0, **penalty))
    assert len(set(descriptions)) == 1
    assert descriptions != samples(greedy)[0]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_longest_trajectory_is_bounded(server: RunningServer, plain: ChatCompletion, name: str) -> None:
    """Description and chain together."""

    def lengths(response: ChatCompletion) -> list[int]:
        details = evidence_of(response)
        tokens = {description.index: description.tokens for description in details.descriptions}
        return [tokens[chain.description or 0] + chain.tokens for chain in details.chains]

    assert min(lengths(plain)) > 40
    response = create(server, seed=1, **{name: 40})
    assert lengths(response) == [40] * 4
    assert response.choices[0].finish_reason == "length"
    assert response.choices[0].message.content == ""


def test_answers_end_before_a_stop(server: RunningServer, plain: ChatCompletion) -> None:
    """Descriptions and reasoning do not."""
    answers = samples(plain)[1]
    stop = plain.choices[0].message.content
    assert stop
    stopped = create(server, **ALIKE, stop=[stop[-1]])
    assert samples(stopped)[0] == samples(plain)[0]
    assert samples(stopped)[1] == [answer and answer.split(stop[-1])[0] for answer in answers]
    assert samples(stopped)[1] != answers
    assert samples(create(server, **ALIKE, stop=["###", "\n\n"])) == samples(plain)


def test_reasoning_is_left_out_where_nobody_wants_it(server: RunningServer, plain: ChatCompletion) -> None:
    response = create(server, {"include_reasoning": False}, **ALIKE)
    assert response.choices[0].message.content == plain.choices[0].message.content
    assert samples(response) == samples(plain)
    assert set(plain.choices[0].message.model_extra or {}) == {"reasoning", "reasoning_content"}
    assert response.choices[0].message.model_extra == {}
