"""The Anthropic API over the fake engine, called by the real anthropic package through a real uvicorn."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, RawMessageStreamEvent
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from mirl_client import evidence
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import EngineDeadError, EngineError, MIRLError, RequestError
from mirl_server.apis.messages.blocks import fit_messages
from tests.unit.server.apis.api_cases import SMALL, image_block, messages_body, named_events, post, serving
from tests.unit.server.harness import Build, Harness

BODY = messages_body()
MIRL = {"mirl": SMALL}


@pytest.fixture
async def client(server: Harness) -> AsyncIterator[AsyncAnthropic]:
    async with serving(server.app) as url, anthropic_client(url) as made:
        yield made


def anthropic_client(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=20)


async def test_a_gated_answer(client: AsyncAnthropic, server: Harness) -> None:
    message = await client.messages.create(
        model="m", max_tokens=50, system="Be brief.", messages=BODY["messages"], stop_sequences=["###"],
        metadata={"user_id": "u"}, thinking={"type": "adaptive"}, extra_body={**MIRL, "temperature": 0.5},
    )  # fmt: skip
    Message.model_validate(message.model_dump(), strict=True)
    thinking, text = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "a red seven\n\nso"
    assert text.type == "text"
    assert text.text == "7"
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == (
        "assistant",
        "m",
        "end_turn",
        None,
    )
    assert message.id.startswith("msg_")
    assert message.usage.output_tokens == server.engine.sampled_tokens
    answer_evidence = evidence(message)
    assert answer_evidence is not None
    assert answer_evidence.vote is not None
    (describe,) = server.engine.of_kind("describe")
    assert describe.conversation.messages[0] == {"role": "system", "content": "Be brief."}
    assert describe.conversation.messages[1]["content"][0]["image"].size == (4, 4)
    assert describe.sampling is not None
    assert describe.sampling.temperature == 0.5
    assert server.handed == []


async def test_the_sdks_own_stream(client: AsyncAnthropic, server: Harness) -> None:
    async with client.messages.stream(
        model="m", max_tokens=50, messages=BODY["messages"], extra_body=MIRL
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "7"
    thinking, last = final.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "a red seven\n\nso"
    assert last.type == "text"
    assert last.text == "7"
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", server.engine.sampled_tokens)
    assert final.usage.input_tokens > 0


async def test_events_are_the_apis_own_and_in_order(server: Harness) -> None:
    events = named_events((await post(server, "/v1/messages", messages_body(stream=True))).text)
    pings = [event for event in events if event["type"] == "ping"]
    assert [ping["mirl"]["event"] for ping in pings][:4] == ["started", "described", "described", "gated"]
    own_events = [event for event in events if event["type"] != "ping"]
    known: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for event in own_events:
        known.validate_python(event)
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [event["type"] for event in own_events] == [
        "message_start", *block, *block, "message_delta", "message_stop",
    ]  # fmt: skip
    assert [event["index"] for event in own_events if "index" in event] == [0, 0, 0, 1, 1, 1]
    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    answer_evidence = evidence(own_events[-2])
    assert answer_evidence is not None
    assert own_events[-2]["usage"]["output_tokens"] == sum(
        stage.generated_tokens for stage in answer_evidence.stages
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("chain", "reason", "sequence", "text"),
    [
        ("<think>so ###</think><answer>12 ### 3</answer>", "stop_sequence", "###", "12 "),
        ("<think>so ###</think><answer>12</answer>", "end_turn", None, "12"),
        ("<think>" + "so " * 30, "max_tokens", None, ""),
    ],
)
async def test_why_it_stopped(
    build: Build, chain: str, reason: str, sequence: str | None, text: str, stream: bool
) -> None:
    harness = build(FakeEngine(chains=[chain]))
    body = messages_body(stop_sequences=["END", "###"], max_tokens=20, stream=stream)
    response = await post(harness, "/v1/messages", body)
    if stream:
        events = named_events(response.text)
        final = next(event["delta"] for event in events if event["type"] == "message_delta")
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        said = "".join(delta.get("text", "") for delta in deltas)
    else:
        final = response.json()
        said = final["content"][-1]["text"]
    assert (final["stop_reason"], final["stop_sequence"], said) == (reason, sequence, text)


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, {"type": "adaptive", "display": "omitted"}])
async def test_thinking_can_be_left_out(server: Harness, thinking: dict[str, str]) -> None:
    answer = (await post(server, "/v1/messages", messages_body(thinking=thinking))).json()
    assert [block["type"] for block in answer["content"]] == ["text"]


async def test_earlier_turns_reach_the_model(server: Harness) -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "think", "signature": ""},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "a word"},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "dort drüben"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [
                {"type": "text", "text": "seen"}, {"type": "text", "text": None},
                {"type": "text", "text": "it"},
            ]},
            {"type": "text", "text": "go on"},
        ]},
        {"role": "assistant", "content": "done"},
        *BODY["messages"],
    ]  # fmt: skip
    system = [
        {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "brief."},
    ]
    response = await post(server, "/v1/messages", messages_body(messages=turns, system=system))
    assert response.status_code == 200, response.text
    (describe,) = server.engine.of_kind("describe")
    first, _, assistant, tool, user, done, _ = describe.conversation.messages
    assert first == {"role": "system", "content": "Be brief."}
    call = {
        "id": "t1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"at": "dort drüben"}'},
    }
    assert assistant == {"role": "assistant", "content": "a word", "tool_calls": [call], "reasoning": "think"}
    assert tool == {"role": "tool", "tool_call_id": "t1", "content": "seen\nit"}
    assert user == {"role": "user", "content": [{"type": "text", "text": "go on"}]}
    assert done == {"role": "assistant", "content": "done"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "frob"}}, "thinking.type"),
        ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop": ["x"]}, "stop"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"system": 3}, "system"),
        ({"mirl": {"kep": 1}}, "mirl.kep"),
        ({"frob": 1}, "frob"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_fields_that_cannot_be_honoured_are_named(
    client: AsyncAnthropic, server: Harness, fields: dict[str, Any], named: str, stream: bool
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(
            model="m", max_tokens=9, messages=BODY["messages"], stream=stream, extra_body=fields
        )
    body: Any = caught.value.body
    assert set(body) == {"type", "error"}
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert named in body["error"]["message"]
    assert server.engine.calls == []
    assert server.metric("mirl_requests_total", outcome="refused") == 1


TOOL = {"name": "report", "input_schema": {"type": "object"}}
BY_URL = {"type": "image", "source": {"type": "url", "url": "https://images.example/a.png"}}


@pytest.mark.parametrize(
    ("fields", "said", "unsaid"),
    [
        ({"tools": [TOOL]}, "say 'any' or name a tool", "required"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "set max_tokens", "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": [BY_URL]}]}, "source.type 'base64'", "data URL"),
    ],
)
async def test_remedies_are_in_the_apis_own_words(
    server: Harness, fields: dict[str, Any], said: str, unsaid: str
) -> None:
    response = await post(server, "/v1/messages", messages_body(**fields))
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]
    assert unsaid not in response.text


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("text", "messages[0]"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "document"}]}, "messages[0].content[0]"),
        ({"role": "assistant", "content": [image_block()]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[0].content[0].source"),
        (
            {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]},
            "messages[0].content[0].source.type",
        ),
        (
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "x"},
                {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            ]},
            "messages[0].content[1]",
        ),
        (
            {"role": "user", "content": [{"type": "image", "source": {"media_type": 3, "data": "AAAA"}}]},
            "messages[0].content[0].source.media_type",
        ),
        (
            {"role": "user", "content": [image_block("data:image/png;base64,AAAA")]},
            "messages[0].content[0]",
        ),
        (
            {"role": "user", "content": [{"type": "tool_result", "content": "x"}]},
            "messages[0].content[0].tool_use_id",
        ),
    ],
)  # fmt: skip
async def test_malformed_blocks_are_named_as_they_were_sent(
    server: Harness, message: Any, named: str
) -> None:
    body = messages_body(system="Be brief.", messages=[message, *BODY["messages"]])
    response = await post(server, "/v1/messages", body)
    assert response.status_code == 400
    said = response.json()["error"]["message"]
    assert said.startswith(named)
    assert said.count("messages[") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind", "raised"),
    [
        (RequestError("no"), 400, "invalid_request_error", anthropic.BadRequestError),
        (EngineError("no"), 500, "api_error", anthropic.InternalServerError),
        (EngineDeadError("no"), 503, "overloaded_error", anthropic.InternalServerError),
    ],
)
async def test_errors_before_the_first_event_have_their_status(
    build: Build,
    error: MIRLError,
    status: int,
    kind: str,
    raised: type[anthropic.APIStatusError],
    stream: bool,
) -> None:
    harness = build(FakeEngine(fail_at={"render": error}))
    async with serving(harness.app) as url, anthropic_client(url) as client:
        with pytest.raises(raised) as caught:
            await client.messages.create(
                model="m", max_tokens=9, messages=BODY["messages"], stream=stream, extra_body=MIRL
            )
    assert caught.value.status_code == status
    assert caught.value.body == {"type": "error", "error": {"type": kind, "message": "no"}}
    assert caught.value.response.headers.get("retry-after") == ("5" if status == 503 else None)


async def test_an_error_in_a_stream_is_an_event_of_it(build: Build) -> None:
    harness = build(FakeEngine(fail_at={"fork": EngineError("the engine choked")}))
    events = named_events((await post(harness, "/v1/messages", messages_body(stream=True))).text)
    assert events[-1] == {"type": "error", "error": {"type": "api_error", "message": "the engine choked"}}
    async with serving(harness.app) as url, anthropic_client(url) as client:
        stream = await client.messages.create(
            model="m", max_tokens=9, messages=BODY["messages"], stream=True, extra_body=MIRL
        )
        with pytest.raises(anthropic.APIError, match="choked"):
            _ = [event async for event in stream]
    assert harness.engine.running == 0


@pytest.mark.parametrize("kind", [{}, [], 3, None])
async def test_a_blocks_type_may_be_anything(server: Harness, kind: Any) -> None:
    blocks = [{"type": kind}, *BODY["messages"][0]["content"]]
    response = await post(
        server, "/v1/messages", messages_body(messages=[{"role": "user", "content": blocks}])
    )
    assert (response.status_code, response.json()["type"]) == (400, "error")


async def test_bodies_that_are_not_json_get_the_apis_own_error(server: Harness) -> None:
    async with server.client() as client:
        response = await client.post(
            "/v1/messages", content=b"{", headers={"content-type": "application/json"}
        )
    assert (response.status_code, response.json()["type"]) == (400, "error")


@pytest.mark.parametrize(
    ("fields", "fitted"),
    [
        ({"thinking": {"type": "enabled"}}, {"thinking": {"type": "adaptive"}}),
        ({"output_config": {"effort": "none"}}, {"output_config": {"effort": "low"}}),
        ({"output_config": {"effort": "high"}}, {"output_config": {"effort": "high"}}),
        ({"stop_sequences": "x"}, {"stop_sequences": ["x"]}),
    ],
)
async def test_a_plain_requests_fields_are_as_vllm_takes_them(
    server: Harness, fields: dict[str, Any], fitted: dict[str, Any]
) -> None:
    handed: list[dict[str, Any]] = []

    async def handle(body: dict[str, Any], request: Request) -> Response:
        handed.append(body)
        return JSONResponse({})

    server.app.state.mirl = dataclasses.replace(server.service, handlers={"messages": handle})
    turns = [{"role": "user", "content": "hi"}]
    assert (await post(server, "/v1/messages", messages_body(messages=turns, **fields))).status_code == 200
    assert {name: handed[0][name] for name in fitted} == fitted


def test_an_assistants_texts_become_one_and_other_blocks_stay() -> None:
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": None}, {"type": "text", "text": "b"}]
    others: list[Any] = [{"type": "tool_use", "id": "t"}, {"type": "text", "text": 3}, "no block"]
    messages = [{"role": "assistant", "content": [*texts, *others]}]
    fit_messages(messages)
    assert messages == [{"role": "assistant", "content": [{"type": "text", "text": "ab"}, *others]}]
