"""langchain-openai against a real `mirl-serve`: what its users ask, whole and streaming."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.helpers.image_requests import image_part, small_fan_out
from tests.helpers.servers import NAME, RunningServer

URL = image_part()["image_url"]["url"]
QUESTION = HumanMessage(
    content=[
        {"type": "text", "text": "What is the sum of all digits?"},
        # Its own way to say it, and OpenAI's.
        {"type": "image", "base64": URL.split(",")[1], "mime_type": "image/png"},
        image_part(1),
    ]
)


class Report(BaseModel):
    """What a picture shows."""

    digit: Literal[1, 7, 8]


def model(server: RunningServer, name: str = NAME, **how: Any) -> ChatOpenAI:
    return ChatOpenAI(
        **{
            "model": name, "base_url": f"{server.url}/v1", "api_key": SecretStr("none"), "max_retries": 0,
            "timeout": 120, "seed": 1, "max_completion_tokens": 150, "extra_body": small_fan_out(),
        } | how
    )  # fmt: skip


def test_whole_and_streamed_are_one_answer(server: RunningServer) -> None:
    chat_model = model(server, stream_usage=True)
    whole = chat_model.invoke([QUESTION])
    assert whole.response_metadata["model_name"] == NAME
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    assert whole.usage_metadata is not None
    # More was sampled than the answer has: every branch counts.
    assert whole.usage_metadata["output_tokens"] > 50
    chunks = list(chat_model.stream([QUESTION]))
    streamed = chunks[0]
    for chunk in chunks[1:]:
        streamed += chunk
    assert streamed.text == whole.text
    assert streamed.usage_metadata is not None
    assert streamed.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_reasoning_comes_by_the_responses_api(server: RunningServer) -> None:
    # Of chat completions langchain-openai keeps OpenAI's fields alone: neither reasoning nor `mirl`.
    message = model(server, use_responses_api=True, seed=None).invoke([QUESTION])
    assert {block["type"] for block in message.content_blocks} >= {"reasoning", "text"}
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_token_details"]["reasoning"] > 0


async def test_async_and_in_batches(server: RunningServer) -> None:
    messages = await model(server).abatch([[QUESTION]] * 3)
    assert all(isinstance(message, AIMessage) for message in messages)
    assert [chunk async for chunk in model(server).astream([QUESTION])]


def test_direct_needs_no_extra_field(server: RunningServer) -> None:
    message = model(server, f"{NAME}:direct", extra_body=None, max_completion_tokens=5).invoke([QUESTION])
    assert message.response_metadata["model_name"] == f"{NAME}:direct"


def test_answers_by_a_schema(server: RunningServer) -> None:
    structured = model(server, max_completion_tokens=400).with_structured_output(
        Report, method="json_schema", include_raw=True
    )
    result = structured.invoke([QUESTION])
    assert isinstance(result["parsed"], Report), result


def test_a_tool_is_called_and_its_result_goes_back(server: RunningServer) -> None:
    chat_model = model(server, max_completion_tokens=400)
    called = chat_model.bind_tools([Report], tool_choice="Report").invoke([QUESTION])
    (call,) = called.tool_calls
    assert call["name"] == "Report"
    assert isinstance(call["args"]["digit"], int)
    answered = ToolMessage("noted", tool_call_id=call["id"])
    # No new picture: the model's own handler answers, whatever knobs every request of this client brings.
    answer = model(server, max_completion_tokens=5).invoke([QUESTION, called, answered])
    assert isinstance(answer, AIMessage)


def test_errors_are_its_own(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        model(server, extra_body={"mirl": {"kep": 2}}).invoke([QUESTION])
    assert caught.value.param == "mirl.kep"
    with pytest.raises(openai.BadRequestError):
        list(model(server, extra_body={"mirl": {"kep": 2}}).stream([QUESTION]))
    with pytest.raises(openai.NotFoundError):
        model(server, "gpt-5").invoke([QUESTION])
    long = HumanMessage(content=[{"type": "text", "text": "word " * 4000}, image_part()])
    with pytest.raises(ContextOverflowError):
        model(server).invoke([long])
    with pytest.raises(openai.InternalServerError) as late:
        model(server, extra_body=small_fan_out(timeout=1e-4)).invoke([QUESTION])
    assert late.value.status_code == 504
