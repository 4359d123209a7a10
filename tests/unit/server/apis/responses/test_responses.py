"""The Responses API over the fake engine, called by the real openai package through a real uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseCompletedEvent, ResponseStreamEvent
from pydantic import TypeAdapter

from mirl_client import evidence
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import EngineError
from mirl_server.apis.responses.items import fit_items
from mirl_server.apis.responses.response import _usage
from tests.unit.server.apis.api_cases import SMALL, input_image, named_events, post, responses_body, serving
from tests.unit.server.apis.result_cases import CHAIN, RESULT
from tests.unit.server.harness import Build, Harness

BODY = responses_body()
MIRL = {"mirl": SMALL}


@pytest.fixture
async def client(server: Harness) -> AsyncIterator[AsyncOpenAI]:
    async with serving(server.app) as url, openai_client(url) as made:
        yield made


def openai_client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def test_tokens_outside_the_answers_own_chain_are_reasoning() -> None:
    """Of ten sampled tokens five are the chain's that the answer stands in."""
    assert _usage(RESULT) == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 21,
    }
    assert _usage(replace(RESULT, representative=replace(CHAIN, tokens=7)))["output_tokens_details"] == {
        "reasoning_tokens": 3
    }


async def test_a_gated_answer(client: AsyncOpenAI, server: Harness) -> None:
    response = await client.responses.create(
        model="m", input=BODY["input"], instructions="Be brief.", max_output_tokens=50, temperature=0.5,
        metadata={"run": "1"}, user="someone", store=False, extra_body=MIRL,
    )  # fmt: skip
    Response.model_validate(response.model_dump(), strict=True)
    assert response.output_text == "7"
    assert (response.status, response.model, response.error, response.incomplete_details) == (
        "completed",
        "m",
        None,
        None,
    )
    assert response.id.startswith("resp_")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    reasoning = response.output[0]
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.summary] == ["a red seven", "so"]
    assert (response.temperature, response.max_output_tokens, response.instructions) == (0.5, 50, "Be brief.")
    assert (response.metadata, response.user) == ({"run": "1"}, "someone")
    assert response.usage is not None
    assert response.usage.output_tokens == server.engine.sampled_tokens
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    answer_evidence = evidence(response)
    assert answer_evidence is not None
    assert answer_evidence.best is not None
    assert answer_evidence.best.text == "a red seven"
    (describe,) = server.engine.of_kind("describe")
    assert [message["role"] for message in describe.conversation.messages] == ["system", "user"]
    assert describe.sampling is not None
    assert describe.sampling.temperature == 0.5
    assert server.handed == []


async def test_the_sdks_own_stream(client: AsyncOpenAI, server: Harness) -> None:
    text, events = "", []
    async with client.responses.stream(model="m", input=BODY["input"], extra_body=MIRL) as stream:
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                text += event.delta
        final = await stream.get_final_response()
    assert (text, final.output_text, final.status) == ("7", "7", "completed")
    assert final.usage is not None
    assert final.usage.output_tokens == server.engine.sampled_tokens
    answer_evidence = evidence(final)
    assert answer_evidence is not None
    assert answer_evidence.vote is not None
    assert {event.type for event in events} >= {
        "response.created", "response.in_progress", "response.output_item.added",
        "response.reasoning_summary_text.delta", "response.content_part.added", "response.output_item.done",
        "response.completed",
    }  # fmt: skip


async def test_events_are_the_apis_own_and_in_order(server: Harness) -> None:
    events = named_events((await post(server, "/v1/responses", responses_body(stream=True))).text)
    known: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:
        known.validate_python(event, strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert events[0]["response"]["status"] == "in_progress"
    added = next(event["item"] for event in events if event["type"] == "response.output_item.added")
    assert (added["type"], added["summary"], added["status"]) == ("reasoning", [], "in_progress")
    stages = [event["mirl"]["event"] for event in events if "mirl" in event]
    assert stages[:4] == ["started", "described", "described", "gated"]
    assert set(kinds[1 : 1 + len(stages)]) == {"response.in_progress"}
    assert kinds[1 + len(stages) :] == [
        "response.output_item.added",
        *["response.reasoning_summary_part.added", "response.reasoning_summary_text.delta"],
        *["response.reasoning_summary_text.done", "response.reasoning_summary_part.done"],
        *["response.reasoning_summary_part.added", "response.reasoning_summary_text.delta"],
        *["response.reasoning_summary_text.done", "response.reasoning_summary_part.done"],
        "response.output_item.done",
        "response.output_item.added",
        *["response.content_part.added", "response.output_text.delta"],
        *["response.output_text.done", "response.content_part.done"],
        "response.output_item.done",
        "response.completed",
    ]
    completed = ResponseCompletedEvent.model_validate(events[-1])
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item.id for item in completed.response.output] == [item["id"] for item in done]


async def test_streamed_and_whole_are_the_same(server: Harness) -> None:
    whole = (await post(server, "/v1/responses", BODY)).json()
    streamed = named_events((await post(server, "/v1/responses", responses_body(stream=True))).text)[-1][
        "response"
    ]
    for response in (whole, streamed):
        for name in ("id", "created_at", "completed_at"):
            response.pop(name)
        response["mirl"].pop("stages")
        for item in response["output"]:
            item.pop("id")
    assert whole == streamed


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_is_incomplete(build: Build, stream: bool) -> None:
    harness = build(FakeEngine(chains=["<think>so</think><answer>1"]))
    response = await post(harness, "/v1/responses", responses_body(stream=stream, max_output_tokens=4))
    if stream:
        last = named_events(response.text)[-1]
        assert last["type"] == "response.incomplete"
        answer = last["response"]
    else:
        answer = response.json()
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][-1]["status"] == "incomplete"


async def test_an_error_in_a_stream_is_an_event_of_it(build: Build) -> None:
    harness = build(FakeEngine(fail_at={"fork": EngineError("the engine choked")}))
    events = named_events((await post(harness, "/v1/responses", responses_body(stream=True))).text)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == "the engine choked"
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "the engine choked"}
    async with (
        serving(harness.app) as url,
        openai_client(url) as client,
        client.responses.stream(model="m", input=BODY["input"], extra_body=MIRL) as stream,
    ):
        assert [event.type async for event in stream][-1] == "response.failed"
    assert harness.engine.running == 0


async def test_reasoning_can_be_left_out(server: Harness) -> None:
    answer = (await post(server, "/v1/responses", responses_body(include_reasoning=False))).json()
    assert [item["type"] for item in answer["output"]] == ["message"]


async def test_earlier_turns_reach_the_model(server: Harness) -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "think"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "a word", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "seen"},
        *BODY["input"],
    ]  # fmt: skip
    assert (await post(server, "/v1/responses", responses_body(input=turns))).status_code == 200
    (describe,) = server.engine.of_kind("describe")
    user, assistant, tool, last = describe.conversation.messages
    assert user == {"role": "user", "content": "hello"}
    assert assistant["content"] == "a word"
    assert assistant["reasoning"] == "think"
    assert assistant["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    ]
    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "seen"}
    assert last["content"][0] == {"type": "text", "text": "which digit?"}
    assert last["content"][1]["image"].size == (4, 4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": []}, "text"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"reasoning": {"frob": 1}}, "reasoning.frob"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"instructions": 3}, "instructions"),
        ({"mirl": {"kep": 1}}, "mirl.kep"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"frob": 1}, "frob"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_fields_that_cannot_be_honoured_are_named(
    client: AsyncOpenAI, server: Harness, fields: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="m", input=BODY["input"], stream=stream, extra_body=fields)
    assert caught.value.param == param
    assert param.removeprefix("mirl.") in caught.value.message
    assert server.engine.calls == []
    assert server.metric("mirl_requests_total", outcome="refused") == 1


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ("text", "input[0]"),
        ({"role": "tool", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": 3}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
            "input[0].content[0].file_id",
        ),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].image_url"),
        ({"role": "user", "content": [input_image("https://x/y.png")]}, "input[0].content[0]"),
        ({"role": "user", "content": [input_image("data:image/png;base64,AAAA")]}, "input[0].content[0]"),
        ({"type": "item_reference", "id": "x"}, "input[0]"),
        ({"type": "web_search_call", "id": "x"}, "input[0]"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input[0].arguments"),
        ({"type": "reasoning", "encrypted_content": "x"}, "input[0].encrypted_content"),
        ({"type": "reasoning", "summary": "x"}, "input[0].summary"),
    ],
)
async def test_malformed_items_are_named_as_they_were_sent(server: Harness, item: Any, param: str) -> None:
    # The instructions make a message of their own: places must not shift.
    body = responses_body(instructions="Be brief.", input=[item, *BODY["input"]])
    response = await post(server, "/v1/responses", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert "messages[" not in response.text
    assert server.engine.running == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "background": False, "include": [], "tools": [], "tool_choice": "auto", "stop": []},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "truncation": "disabled"},
        {"reasoning": {"summary": "auto"}, "prompt_cache_key": "k", "max_tool_calls": 3},
        {"previous_response_id": None, "reasoning": None, "text": None, "instructions": None},
    ],
)
async def test_what_asks_for_nothing_passes(server: Harness, fields: dict[str, Any]) -> None:
    assert (await post(server, "/v1/responses", responses_body(**fields))).status_code == 200


def test_items_are_fitted_by_their_type() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    items = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "summary": []},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
        {**call, "id": "fc_1", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": "seen", "status": "completed"},
    ]
    assert fit_items(items) == [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
        call,
        {"type": "function_call_output", "call_id": "c", "output": "seen"},
    ]
