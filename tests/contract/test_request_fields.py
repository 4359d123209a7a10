"""n, logprobs, response_format and reasoning_effort: the real openai package against a real `mirl-serve`."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from mirl_client import evidence
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME, RunningServer

MESSAGES: list[Any] = image_question()


class Seen(BaseModel):
    """What a picture shows."""

    digit: int
    sure: bool


def test_several_answers(server: RunningServer) -> None:
    response = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, n=3, seed=1, max_tokens=150, extra_body=small_fan_out()
    )
    assert [choice.index for choice in response.choices] == [0, 1, 2]
    records = [evidence(response, index) for index in range(3)]
    assert response.usage is not None
    assert response.usage.completion_tokens == sum(
        stage.generated_tokens for record in records if record for stage in record.stages
    )
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(model=NAME, messages=MESSAGES, n=9)
    assert caught.value.param == "n"


def test_several_answers_streamed(server: RunningServer) -> None:
    stream = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, n=2, max_tokens=150, stream=True,
        stream_options={"include_usage": True}, extra_body=small_fan_out(),
    )  # fmt: skip
    chunks = list(stream)
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ended) == [0, 1]
    records = [record for chunk in chunks if (record := evidence(chunk))]
    assert len(records) == 2
    assert chunks[-1].usage is not None
    sampled = sum(stage.generated_tokens for record in records for stage in record.stages)
    assert chunks[-1].usage.completion_tokens == sampled


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: RunningServer, stream: bool) -> None:
    fields: Any = {
        "model": NAME, "messages": MESSAGES, "seed": 1, "max_tokens": 150, "extra_body": small_fan_out(),
        "logprobs": True, "top_logprobs": 3,
    }  # fmt: skip
    if stream:
        choices = [
            chunk.choices[0] for chunk in server.client().chat.completions.create(stream=True, **fields)
        ]
        content = "".join(choice.delta.content or "" for choice in choices)
        (logprobs,) = [choice.logprobs for choice in choices if choice.logprobs]
    else:
        choice = server.client().chat.completions.create(**fields).choices[0]
        content, logprobs = choice.message.content, choice.logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert content in "".join(token.token for token in logprobs.content)
    assert all(len(token.top_logprobs) == 3 for token in logprobs.content)


def test_a_schema_is_kept_to(server: RunningServer) -> None:
    response = server.client().chat.completions.parse(
        model=NAME,
        messages=MESSAGES,
        response_format=Seen,
        seed=1,
        max_tokens=400,
        extra_body=small_fan_out(),
    )
    parsed = response.choices[0].message.parsed
    assert isinstance(parsed, Seen)
    details = evidence(response)
    assert details is not None
    for chain in details.chains:
        if chain.answer is not None:
            Seen.model_validate(json.loads(chain.answer))


def test_a_bad_schema_is_a_400_before_anything_runs(server: RunningServer) -> None:
    before = server.gauge("vllm:generation_tokens_total")
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(
            model=NAME, messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}},
        )  # fmt: skip
    assert caught.value.param == "response_format"
    assert server.gauge("vllm:generation_tokens_total") == before


def test_no_plain_schema_takes_the_engine_away(server: RunningServer) -> None:
    """Left to choose, vLLM would stay with the backend that the first schema needs, which may not be ours."""
    sevens = {"type": "integer", "multipleOf": 7}
    odd: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": sevens}}
    with pytest.raises(openai.BadRequestError, match="xgrammar"):
        server.client().chat.completions.create(
            model=f"{NAME}:direct", messages=MESSAGES, response_format=odd, max_tokens=8
        )
    test_a_schema_is_kept_to(server)


@pytest.mark.parametrize(("effort", "less"), [("minimal", True), ("high", False)])
def test_effort_is_a_budget(server: RunningServer, effort: Any, less: bool) -> None:
    client = server.client()
    usual = evidence(client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=60))
    adjusted = evidence(
        client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=60, reasoning_effort=effort)
    )
    assert usual is not None
    assert adjusted is not None
    assert adjusted.budget is not None
    assert usual.budget is not None
    assert len(adjusted.descriptions) == adjusted.budget.descriptions
    assert (adjusted.budget.descriptions < usual.budget.descriptions) is less


def test_a_named_tool_is_called(server: RunningServer) -> None:
    # Bounded, because this model knows no JSON and would write one number to the end of its tokens.
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    parameters = {"type": "object", "properties": {"digit": digit}, "required": ["digit"]}
    tool: Any = {"type": "function", "function": {"name": "report", "parameters": parameters}}
    response = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, seed=1, max_tokens=400, tools=[tool],
        tool_choice={"type": "function", "function": {"name": "report"}}, extra_body=small_fan_out(),
    )  # fmt: skip
    (choice,) = response.choices
    assert choice.message.tool_calls, "no chain came to a call"
    (made,) = choice.message.tool_calls
    assert made.type == "function"
    assert made.function.name == "report"
    assert isinstance(json.loads(made.function.arguments)["digit"], int)
