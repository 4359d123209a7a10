"""litellm, by its route for OpenAI's protocol and by its own for vLLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal

import litellm
import pytest
from pydantic import BaseModel

NAME = "mirl-tiny"
Ask = Callable[..., Any]


class Report(BaseModel):
    """What a picture shows."""

    digit: Literal[1, 7, 8]


@pytest.fixture(params=["openai", "hosted_vllm"])
def fields(request: pytest.FixtureRequest, url: str, messages: list[Any], small: dict[str, Any]) -> Any:
    return {
        "model": f"{request.param}/{NAME}", "api_base": url, "api_key": "none", "messages": messages,
        "max_tokens": 150, "seed": 1, "extra_body": {"mirl": small}, "num_retries": 0, "max_retries": 0,
    }  # fmt: skip


def test_whole_and_streamed_are_one_answer(fields: Any) -> None:
    whole = litellm.completion(**fields)
    message = whole.choices[0].message
    assert isinstance(message.content, str)
    assert message.reasoning_content
    assert whole.usage.completion_tokens > 50
    assert whole.mirl["descriptions"]
    chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **fields))
    rebuilt = litellm.stream_chunk_builder(chunks)
    assert rebuilt.choices[0].message.content == message.content
    assert rebuilt.choices[0].message.reasoning_content == message.reasoning_content
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens


def test_async(fields: Any) -> None:
    assert asyncio.run(litellm.acompletion(**fields)).choices


def test_direct(fields: Any) -> None:
    del fields["extra_body"]
    response = litellm.completion(**fields | {"model": fields["model"] + ":direct", "max_tokens": 5})
    assert getattr(response, "mirl", None) is None


def test_answers_by_a_schema(fields: Any) -> None:
    response = litellm.completion(response_format=Report, **fields | {"max_tokens": 400})
    Report.model_validate_json(response.choices[0].message.content)


def test_a_tool_is_called(fields: Any) -> None:
    tool = {"type": "function", "function": {"name": "report", "parameters": Report.model_json_schema()}}
    choice = {"type": "function", "function": {"name": "report"}}
    response = litellm.completion(tools=[tool], tool_choice=choice, **fields | {"max_tokens": 400})
    (call,) = response.choices[0].message.tool_calls
    assert call.function.name == "report"
    Report.model_validate(json.loads(call.function.arguments))


def test_errors_are_its_own(fields: Any) -> None:
    with pytest.raises(litellm.BadRequestError, match="kep"):
        litellm.completion(**fields | {"extra_body": {"mirl": {"kep": 2}}})
    with pytest.raises(litellm.BadRequestError, match="kep"):
        list(litellm.completion(stream=True, **fields | {"extra_body": {"mirl": {"kep": 2}}}))
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**fields | {"model": fields["model"] + "-2"})
    fields["messages"][0]["content"][1]["text"] = "word " * 4000
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**fields)
