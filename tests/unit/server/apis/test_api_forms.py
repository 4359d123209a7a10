"""Tools, formats and efforts in the words of the Responses and the Anthropic API, by their own SDKs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from openai.types.responses import Response

from mirl_client import evidence
from mirl_core.algorithm.answers.forms import Calls
from mirl_core.engines.fake import FakeEngine
from tests.unit.server.apis.api_cases import SMALL, messages_body, post, responses_body, serving
from tests.unit.server.harness import DESCRIPTIONS, Build, Harness

PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
CALLS = (
    '<answer>[{"name": "point", "arguments": {"x": 1}}, {"name": "point", "arguments": {"x": 2}}]</answer>'
)
SEVEN = '<think>so</think><answer>{"digit": 7}</answer>'
SCHEMA = {"type": "object", "properties": {"digit": {"type": "integer"}}, "required": ["digit"]}
R_TOOL = {"type": "function", "name": "point", "parameters": PARAMETERS, "strict": True, "description": "at"}
M_TOOL = {"name": "point", "input_schema": PARAMETERS, "description": "at"}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "point", "parameters": PARAMETERS, "description": "at"},
}


def chains(build: Build, text: str, parser: bool = False) -> Harness:
    harness = build(FakeEngine(DESCRIPTIONS, lambda suffix, j: text))
    if parser:
        harness.app.state.mirl = dataclasses.replace(harness.service, tool_parser=finds_everything)
    return harness


def finds_everything(tools: Sequence[dict[str, Any]]) -> Callable[[str], Calls]:
    return lambda text: [("point", '{"x": 1}')] if "point" in text else ()


@asynccontextmanager
async def openai_client(harness: Harness) -> AsyncIterator[AsyncOpenAI]:
    async with (
        serving(harness.app) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as made,
    ):
        yield made


@asynccontextmanager
async def anthropic_client(harness: Harness) -> AsyncIterator[AsyncAnthropic]:
    async with (
        serving(harness.app) as url,
        AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=20) as made,
    ):
        yield made


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "point"}])
async def test_responses_call_tools(build: Build, choice: Any) -> None:
    harness = chains(build, CALLS)
    body: Any = {"model": "m", "input": responses_body()["input"], "tools": [R_TOOL], "tool_choice": choice}
    async with openai_client(harness) as client:
        response = await client.responses.create(**body, extra_body={"mirl": SMALL})
    Response.model_validate(response.model_dump(), strict=True)
    assert response.status == "completed"
    assert [item.type for item in response.output] == ["reasoning", "function_call", "function_call"]
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("point", {"x": 1}),
        ("point", {"x": 2}),
    ]
    assert len({call.call_id for call in calls} | {call.id for call in calls}) == 4
    assert response.model_dump()["tools"][0]["name"] == "point"
    render = next(conversation for conversation in harness.engine.rendered if conversation.images)
    function = CHAT_TOOL["function"] | {"strict": True}  # type: ignore[operator]
    assert render.tools == ({"type": "function", "function": function},)


async def test_responses_stream_calls(build: Build) -> None:
    harness = chains(build, CALLS)
    body: Any = {"model": "m", "input": responses_body()["input"], "tools": [R_TOOL]}
    async with (
        openai_client(harness) as client,
        client.responses.stream(**body, tool_choice="required", extra_body={"mirl": SMALL}) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
    done = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(arguments) for arguments in done] == [{"x": 1}, {"x": 2}]
    added = [event.item for event in events if event.type == "response.output_item.done"]
    # A client that read the items as they came knows the calls by the same names.
    assert [item.id for item in added] == [item.id for item in final.output]
    assert [item.call_id for item in added if item.type == "function_call"] == [
        item.call_id for item in final.output if item.type == "function_call"
    ]


@pytest.mark.parametrize("kind", ["any", "tool", "auto"])
async def test_messages_call_tools(build: Build, kind: str) -> None:
    harness = chains(build, CALLS, parser=kind == "auto")
    choice: Any = {"type": kind} | ({"name": "point"} if kind == "tool" else {})
    body = messages_body(tools=[M_TOOL], tool_choice=choice)
    mirl = body.pop("mirl")
    async with anthropic_client(harness) as client:
        message = await client.messages.create(**body, extra_body={"mirl": mirl})
    assert message.stop_reason == "tool_use"
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [block.type for block in message.content] == ["thinking", *["tool_use"] * len(uses)]
    assert [(use.name, use.input) for use in uses] == [("point", {"x": 1}), ("point", {"x": 2})][: len(uses)]
    assert len(uses) == (1 if kind == "auto" else 2)
    render = next(conversation for conversation in harness.engine.rendered if conversation.images)
    assert render.tools == (CHAT_TOOL,)


async def test_messages_stream_calls(build: Build) -> None:
    harness = chains(build, CALLS)
    body = messages_body(tools=[M_TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    mirl = body.pop("mirl")
    async with (
        anthropic_client(harness) as client,
        client.messages.stream(**body, extra_body={"mirl": mirl}) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert [block.input for block in final.content if block.type == "tool_use"] == [{"x": 1}, {"x": 2}]
    (fork,) = harness.engine.of_kind("fork")
    assert fork.sampling is not None
    assert '"maxItems": 1' in (fork.sampling.structure or "")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "d", "schema": SCHEMA}}}),
        ("/v1/responses", {"structured_outputs": {"json": SCHEMA}}),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    ],
)
async def test_answers_of_a_form(build: Build, path: str, fields: dict[str, Any]) -> None:
    harness = chains(build, SEVEN)
    body = {"/v1/responses": responses_body, "/v1/messages": messages_body}[path](**fields)
    answer = (await post(harness, path, body)).json()
    content = answer["output"][-1]["content"] if path == "/v1/responses" else answer["content"]
    assert content[-1]["text"] == '{"digit": 7}'
    if "text" in fields:
        assert answer["text"] == fields["text"]
    (fork,) = harness.engine.of_kind("fork")
    assert fork.sampling is not None
    assert (
        json.loads(fork.sampling.structure or "")["format"]["elements"][1]["content"]["json_schema"] == SCHEMA
    )


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"reasoning": {"effort": "minimal"}}),
        ("/v1/messages", {"output_config": {"effort": "low"}}),
    ],
)
async def test_an_effort_is_a_budget(build: Build, path: str, fields: dict[str, Any]) -> None:
    harness = build(defaults={"descriptions": 4, "keep": 2})
    body = {"/v1/responses": responses_body, "/v1/messages": messages_body}[path](mirl={}, **fields)
    answer = (await post(harness, path, body)).json()
    answer_evidence = evidence(answer)
    assert answer_evidence is not None
    assert answer_evidence.budget is not None
    assert (
        answer_evidence.budget.descriptions
        == len(answer_evidence.descriptions)
        == (1 if "reasoning" in fields else 2)
    )


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/responses", {"tools": [R_TOOL]}, "--tool-call-parser"),
        ("/v1/responses", {"tools": {}}, "tools"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools[0]"),
        ("/v1/responses", {"tools": [{"type": "function"}]}, "tools[0].name"),
        ("/v1/responses", {"tools": [R_TOOL | {"frob": 1}]}, "tools[0].frob"),
        ("/v1/responses", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/responses", {"tools": [R_TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ("/v1/responses", {"text": {"format": {"type": "frob"}}}, "text.format"),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "d"}}}, "text.format"),
        ("/v1/responses", {"n": 2}, "unknown field 'n'"),
        ("/v1/messages", {"tools": [M_TOOL]}, "--tool-call-parser"),
        ("/v1/messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ("/v1/messages", {"tools": [M_TOOL | {"input_schema": 3}]}, "tools[0].input_schema"),
        ("/v1/messages", {"tool_choice": 3}, "tool_choice must be an object"),
        ("/v1/messages", {"output_config": 3}, "output_config must be an object"),
        ("/v1/messages", {"tool_choice": {"type": "frob"}}, "tool_choice.type"),
        ("/v1/messages", {"tool_choice": {"type": []}}, "tool_choice.type"),
        ("/v1/messages", {"tools": [M_TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ("/v1/messages", {"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ("/v1/messages", {"n": 2}, "unknown field 'n'"),
    ],
)
async def test_what_cannot_be_had_is_named(
    build: Build, path: str, fields: dict[str, Any], named: str
) -> None:
    harness = chains(build, CALLS)
    body = {"/v1/responses": responses_body, "/v1/messages": messages_body}[path](**fields)
    response = await post(harness, path, body)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]
    assert harness.engine.calls == []
